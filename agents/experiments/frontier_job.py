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
    """One cell."""

    place: str
    """The environment and its protocol."""
    env_id: str
    """The environment."""
    kind: str
    """``post-hoc``, ``tuned``, ``fronts``, or the name of a run or supervised baseline."""
    seed: int
    """Of the users kept apart, of the hold-outs, of the noise."""
    goals: tuple[str, ...]
    """Metrics beyond accuracy."""
    backbone: str
    """A closed form."""
    options: Mapping[str, Any]
    """Its settings."""
    later: float
    """Share of the users who are kept apart."""
    relevance: str
    """Of the reward."""
    reward: Mapping[str, float]
    """Of a run."""
    reward_kwargs: Mapping[str, Any]
    """Of a run."""
    agent: TrainerConfig | None
    """Of a run."""
    rerank: Mapping[str, tuple[float, ...]]
    """Re-ranker -> strengths."""
    rerank_at: tuple[int, ...]
    """Of a run: the iterations whose points are re-ranked, too."""
    runs: tuple[str, ...]
    """Of ``fronts``: the runs."""
    records: Path
    """File of the records."""
    folder: Path
    """Folder of the lists."""
    device: str
    """Where it runs."""
    algorithm: str = "reinforce"
    """Of a run or supervised baseline."""
    supervised: tuple[str, ...] = ()
    """Of ``fronts``: the supervised baselines."""

    def key(self, kind: str = "") -> str:
        """Return the key of this cell's record, or of another kind's of the same environment and seed."""
        place = self.place.replace(", ", "-").replace(" ", "-")
        return f"{place}_{kind or self.kind}_seed{self.seed}"

    @property
    def lists(self) -> Path:
        """The file of its lists."""
        return self.folder / f"{self.key()}.npz"
