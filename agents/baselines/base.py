"""The interface of baselines: settings, a fit, and scores of all items for any user of a data set.

Letters: B users in a batch, U users, I items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from refit_env.data.dataset import Dataset, RowDataset
from refit_env.errors import unknown_name
from refit_env.evaluation.ranking import ScoreFunction
from refit_env.settings import Bounded

TASKS = ("cf", "sequential", "social", "poi")
SETS, ROWS = "sets", "rows"
"""The forms of a data set: users with sets of items; rows, each a history and the item that came next."""


@dataclass(frozen=True)
class BaselineConfig(Bounded):
    """Settings of a baseline without settings."""


@dataclass(frozen=True, eq=False)
class Scorer:
    """Scores of a fitted baseline.

    Attributes:
        score: users (B,) int64 -> scores (B, I) float32, on the users' device.
        chosen: settings that validation chose during the fit, by field, such as the number of epochs. A fit
            with them and without validation items repeats the choice.
    """

    score: ScoreFunction
    chosen: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, users: Tensor) -> Tensor:
        """Return scores (B, I) for ``users`` (B,), higher is better; the evaluation masks seen items."""
        return self.score(users)


class Baseline(ABC):
    """A recommender to compare a diffusion model with.

    Attributes:
        config: its settings.
    """

    name: ClassVar[str]
    forms: ClassVar[tuple[str, ...]] = (SETS,)
    """The forms of data sets that it supports."""
    seeded: ClassVar[bool] = False
    """Whether the seed changes the fit."""
    chooses: ClassVar[bool] = False
    """Whether a fit chooses settings by the validation items: the number of epochs."""
    ordered: ClassVar[bool] = False
    """Whether it also accepts sets of items that are sorted by time."""
    needs: ClassVar[str] = ""
    """A further requirement: ``social`` edges or ``coordinates`` of the items."""
    config_class: ClassVar[type[BaselineConfig]] = BaselineConfig

    def __init__(self, config: BaselineConfig | None = None) -> None:
        """Store the settings; None uses the defaults."""
        self.config = config if config is not None else self.config_class()

    def fit(self, dataset: Dataset, seed: int = 0, device: torch.device | str = "cpu") -> Scorer:
        """Fit to the train split.

        Args:
            dataset: its train split is fitted; its valid split may stop training early; its test split is
                not read. A sequential or check-in set in order of time is taken as rows.
            seed: of random numbers, where there are any.
            device: of the training, where there is one.

        Returns:
            Scores for the users (rows) of ``dataset.episodes``, whose input is what ``train`` shows of them.

        Raises:
            ValueError: if the data set is not one that this baseline is for, or too large.
        """
        data = dataset.episodes
        if fault := self.fault(data):
            raise ValueError(f"baseline {self.name!r} {fault}")
        return self.fit_episodes(data, seed, torch.device(device))

    @abstractmethod
    def fit_episodes(self, data: Dataset, seed: int, device: torch.device) -> Scorer:
        """Fit to a data set that ``fault`` accepts, as rows where it has rows."""

    @classmethod
    def fault(cls, dataset: Dataset) -> str | None:
        """Return why this baseline does not support a data set, or None; the text follows its name."""
        data = dataset.episodes
        form = ROWS if isinstance(data, RowDataset) else SETS
        if form not in cls.forms and not (cls.ordered and data.time_ordered):
            need = "rows sorted by time" if ROWS in cls.forms else "users with sets of items"
            return f"needs {need}; {data.name!r} has none"
        if cls.needs == "social" and not data.has_friends:
            return f"needs social edges; {data.name!r} has none"
        if cls.needs == "coordinates" and not {"lat", "lon"} <= set(data.item_features or {}):
            return f"needs the items' coordinates ('lat' and 'lon'); {data.name!r} has none"
        return None


def make_config(kind: type[BaselineConfig], name: str, settings: Mapping[str, Any]) -> BaselineConfig:
    """Make settings from their fields' values.

    Args:
        kind: the class of settings.
        name: of the baseline, for the message.
        settings: field -> value.

    Raises:
        ValueError: for a field that the settings do not have, with a did-you-mean.
        SettingError: for a value out of its bounds.
    """
    known = list(kind.__dataclass_fields__)
    for key in settings:
        if key not in known:
            if not known:
                raise ValueError(f"unknown setting of baseline {name!r} {key!r}: it has none")
            raise unknown_name(f"setting of baseline {name!r}", key, known)
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()})
