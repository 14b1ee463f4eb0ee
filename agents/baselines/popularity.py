"""Popularity: ranks items by their train interactions, the same for all users.

Letters: B users in a batch, I items.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from agents.baselines.base import ROWS, SETS, Baseline, Scorer
from refit_env.data.dataset import Dataset, RowDataset
from refit_env.evaluation.ranking import evaluate


class Popularity(Baseline):
    """Scores an item by its train interactions; of rows, by how often it came next."""

    name: ClassVar[str] = "popularity"
    forms: ClassVar[tuple[str, ...]] = (SETS, ROWS)

    def fit_episodes(self, data: Dataset, seed: int, device: torch.device) -> Scorer:
        """Count."""
        items = data.targets.items if isinstance(data, RowDataset) else data.train.items
        counts = torch.as_tensor(np.bincount(items, minlength=data.num_items), dtype=torch.float32)  # (I,)

        def score(users: Tensor) -> Tensor:
            """Return the counts (B, I) for each of ``users`` (B,)."""
            return counts.to(users.device).expand(users.numel(), -1).clone()

        return Scorer(score)


def popular_on_validation(data: Dataset, metric: str, device: torch.device) -> float:
    """Return the validation metric of the most popular items, which a model that has learned exceeds."""
    return evaluate(Popularity().fit_episodes(data, 0, device), data, "valid", device=device).means()[metric]
