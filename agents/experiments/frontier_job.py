"""One cell of the study of fronts as data: an environment, a seed, and what is measured there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.training.config import TrainerConfig

NDCG = "ndcg@20"


@dataclass(frozen=True)
class FrontJob:
    """One cell of the study of fronts."""

    place: str
    """The environment and its protocol."""
    env_id: str
    """The environment."""
    kind: str
    """``post-hoc``, ``tuned``, ``fronts``, or the name of a run or supervised baseline."""
    seed: int
    """Seed of the users kept apart, the hold-outs and the noise."""
    goals: tuple[str, ...]
    """Metrics beyond accuracy."""
    backbone: str
    """A closed form."""
    options: Mapping[str, Any]
    """Its settings."""
    later: float
    """Share of the users who are kept apart."""
    relevance: str
    """Which items the reward counts as relevant."""
    reward: Mapping[str, float]
    """Weights of a run's reward; empty for other kinds."""
    reward_kwargs: Mapping[str, Any]
    """Settings of a run's reward."""
    agent: TrainerConfig | None
    """Settings of a run's algorithm; None for other kinds."""
    rerank: Mapping[str, tuple[float, ...]]
    """Re-ranker -> strengths."""
    rerank_at: tuple[int, ...]
    """The iterations of a run whose points are re-ranked, too."""
    runs: tuple[str, ...]
    """The runs that ``fronts`` compares; empty for other kinds."""
    records: Path
    """File of the records."""
    folder: Path
    """Folder of the lists."""
    device: str
    """Device of the cell."""
    algorithm: str = "reinforce"
    """Name of the algorithm of a run or supervised baseline."""
    supervised: tuple[str, ...] = ()
    """The supervised baselines that ``fronts`` compares; empty for other kinds."""

    def key(self, kind: str = "") -> str:
        """Return the key of this cell's record, or of another kind's of the same environment and seed."""
        place = self.place.replace(", ", "-").replace(" ", "-")
        return f"{place}_{kind or self.kind}_seed{self.seed}"

    @property
    def lists(self) -> Path:
        """The file of its lists."""
        return self.folder / f"{self.key()}.npz"
