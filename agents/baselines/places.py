"""Baselines of check-ins without training: most visited places, and nearest places.

Letters: B histories in a batch, U rows or users, I places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from agents.baselines.base import ROWS, SETS, Baseline, BaselineConfig, Scorer
from agents.baselines.matrices import shown_rows
from agents.baselines.reward_models import RewardModel
from refit_env.backbones.geography import coordinates_of, kilometres
from refit_env.data.dataset import Dataset, RowDataset
from refit_env.data.rows import SparseRows


@dataclass(frozen=True)
class MostVisitedConfig(BaselineConfig):
    """Settings of the most visited places."""

    decay: Annotated[float, Meta(ge=0, le=10)] = 0.5
    """A visit b places back counts 1 / b^decay; 0 counts visits."""


class MostVisited(RewardModel):
    """Scores places by their visits in the history, with larger weights for recent visits.

    It is the model of the reward ``personal_frequency``, P-TopFreq of next-basket recommendation (Hu et al.,
    SIGIR 2020, arXiv 2006.00556).
    """

    name: ClassVar[str] = "most-visited"
    reward: ClassVar[str] = "personal_frequency"
    forms: ClassVar[tuple[str, ...]] = (ROWS,)
    config_class: ClassVar[type[BaselineConfig]] = MostVisitedConfig


@dataclass(frozen=True)
class NearestConfig(BaselineConfig):
    """Settings of the nearest places."""

    scale: Annotated[float, Meta(gt=0)] = 1.0
    """Distance in kilometres at which a place has half the weight of one at distance 0."""
    popularity: Annotated[float, Meta(ge=0, le=5)] = 0.5
    """Power of a place's train visits that its nearness is multiplied by; 0 ranks by distance alone."""


class Nearest(Baseline):
    """Scores popular places near the visited ones: sum over these of popularity^p / (1 + km / scale).

    Of rows in order, the place b visits back counts 1 / b. The power law of distance is that of Ye et al.
    (SIGIR 2011), the mixture with popularity is this project's own. Places without coordinates are near
    nothing.
    """

    name: ClassVar[str] = "nearest"
    forms: ClassVar[tuple[str, ...]] = (SETS, ROWS)
    needs: ClassVar[str] = "coordinates"
    config_class: ClassVar[type[BaselineConfig]] = NearestConfig
    config: NearestConfig

    def fit_episodes(self, data: Dataset, seed: int, device: torch.device) -> Scorer:
        """Measure the distances between all places."""
        items = data.targets.items if isinstance(data, RowDataset) else data.train.items
        counts = torch.as_tensor(np.bincount(items, minlength=data.num_items), dtype=torch.float32)  # (I,)
        where = coordinates_of(data)  # (I, 2)
        near = torch.stack([self._nearness(kilometres(one, where)) for one in where])  # (I, I)
        near = (near * (counts + 1.0) ** self.config.popularity).to(device)
        rows = SparseRows(shown_rows(data), device)

        def score(users: Tensor) -> Tensor:
            """Return the weighted nearness (B, I) to the places of ``users`` (B,)."""
            return rows.dense(users) @ near

        return Scorer(score)

    def _nearness(self, distance: Tensor) -> Tensor:
        """Return 1 / (1 + km / scale), (I,); 0 where a distance is unknown."""
        return (1.0 / (1.0 + distance / self.config.scale)).nan_to_num(0.0)
