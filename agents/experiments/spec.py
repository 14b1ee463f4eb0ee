"""What a study's file states: variants, tables, rows of other studies; and what it does on an environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from agents.hyperparams.models import Budget, Model
from agents.training.pretrain_config import TARGETS
from refit_env.errors import unknown_name
from refit_env.settings import Bounded, OneOf

PRETRAIN, CONTINUE, FINETUNE = "pretrain", "continue", "finetune"
SB3, REWARD_MODEL, BASELINE = "sb3", "reward_model", "baseline"
MAKES = (PRETRAIN, CONTINUE, FINETUNE, SB3, REWARD_MODEL, BASELINE)
"""How a variant comes about."""
TABLES = (
    "rows", "claims", "slices", "aggregate", "leaderboard", "leaderboard_slices", "leaders", "pairs",
    "published",
)  # fmt: skip
"""Kinds of tables."""
SAME_INFORMATION, RANKING = "same_information", "ranking"
"""Targets of further training besides those of ``PretrainConfig``: the one named by the environment's
relevance; cross-entropy of the target among all items."""


@dataclass(frozen=True)
class Variant(Bounded):
    """One row of the tables: how a model comes about, and from what."""

    key: str
    """What ``--variants`` calls it."""
    title: str
    """What tables call it; the key where a file leaves it out."""
    make: Annotated[str, OneOf(MAKES)]
    """``pretrain``: by the backbone's own loss; ``continue``: more of that training, or towards another
    target; ``finetune``: by an algorithm of this package; ``sb3``: by one of Stable-Baselines3;
    ``reward_model``: the lists of the model that is the reward; ``baseline``: a recommender of
    ``agents.baselines``."""
    parent: str = ""
    """The variant from whose weights it begins, and over which its gain is; empty for one that begins by
    itself."""
    algorithm: str = ""
    """Name of the algorithm or baseline in its registry, for ``finetune``, ``sb3`` and ``baseline``."""
    preset: str = "default"
    """The algorithm's named settings that ``finetune`` starts from."""
    target: Annotated[str, OneOf((*TARGETS, SAME_INFORMATION, RANKING))] = "train"
    """Of ``continue``: what is predicted (``PretrainConfig.target``), or one of the two names above."""
    work_of: str = ""
    """The variant whose work (``agents.runs.work``) is the limit of this one; empty for no limit."""
    settings_of: str = ""
    """The variant of which it has the same settings, where both have them."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Changes to its settings; those of the model (``Model.variants``) go before them."""
    env: Mapping[str, Any] = field(default_factory=dict)
    """Changes to what the model's environment is made with."""
    models: tuple[str, ...] = ()
    """The models that it is made of; all if empty."""
    of_reward_models: bool = False
    """Whether it is left out where no model is the reward."""
    refit: bool = False
    """Of ``baseline`` and ``pretrain``: fitted to train and validation items when validation has chosen."""
    usual: bool = True
    """Whether it is run where no variants are named."""

    def needs(self) -> tuple[str, ...]:
        """The variants that must be finished before it."""
        return tuple(dict.fromkeys(need for need in (self.parent, self.work_of) if need))


@dataclass(frozen=True)
class Place:
    """What a study does on one environment."""

    models: Mapping[str, Model]
    """Name -> model."""
    variants: tuple[Variant, ...]
    """In the order of the tables; a variant comes after those that it needs."""
    seeds: tuple[int, ...]
    """Seeds of pretraining, of the users drawn and of the noise."""
    budget: Budget | None
    """Budget of the fine-tuned variants; None: each has its own number of iterations."""

    def variant(self, key: str) -> Variant:
        """The variant of a key.

        Raises:
            ValueError: for an unknown one, with a did-you-mean.
        """
        for variant in self.variants:
            if variant.key == key:
                return variant
        raise unknown_name("variant", key, [variant.key for variant in self.variants])


@dataclass(frozen=True)
class Also:
    """Rows that another study measures and that this one's tables show."""

    study: str
    """Its name."""
    environment: str
    """The environment."""
    model: str
    """One of the environment's models."""
    variants: Mapping[str, str]
    """Its variants, each with the title that it has here."""


@dataclass(frozen=True)
class Published(Bounded):
    """A published figure, and the row that is beside it."""

    title: str
    """What the table calls it."""
    environment: str
    """The environment of the row."""
    variant: str
    """The variant of the row."""
    source: str
    """Who published it."""
    model: str = ""
    """The model of the row; empty for a baseline."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Metric -> published value."""
    why: str = ""
    """Why ours differs, where it does."""


@dataclass(frozen=True)
class Table:
    """One table of a report."""

    kind: Annotated[str, OneOf(TABLES)]
    """``rows``: models and their variants; ``claims``: the paper's beside these; ``slices``: cold users,
    popular and tail items; ``aggregate``: over environments; ``leaderboard``: best first, paired with the
    best; ``leaderboard_slices``: the slices of its rows; ``leaders``: the best rows of each environment;
    ``published``: rows beside published figures; ``pairs``: variants less others, paired over users."""
    title: str = ""
    """Above it; ``{env}`` is the environment and ``{budget}`` its environment steps."""
    first: str = "model"
    """Heading of the first column."""
    columns: tuple[str, ...] = ()
    """Columns of ``rows`` and ``leaderboard``: names of ``agents.experiments.columns.COLUMNS``."""
    each: bool = False
    """Whether each environment has a table of its own."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Rows of ``pairs``: keys of two variants each, of which the second is subtracted from the first."""
