"""A recommender as one graph, from histories to lists: what ``refit export`` writes.

Letters: B histories in a batch, n their length, I items, K list length.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from refit_env.backbones.row_weights import latest_items, places_in
from refit_env.data import Dataset
from refit_env.data.interactions import SPLITS
from refit_env.policy import DiffusionPolicy

NOTHING = -1
"""Padding of histories, and of lists with fewer than K items."""
ROUNDING = 1e-5
"""Share of the largest score by which scores differ from rounding alone."""


def popular_where_alike(scores: Tensor, popular: Tensor) -> Tensor:
    """Return scores (B, I) by which popular items come first in rows that score all items alike.

    A closed form knows nothing of a person without items; without this the list would be by item number.

    Args:
        scores: (B, I).
        popular: (I,) how popular each item is.

    Example:
        >>> popular_where_alike(torch.tensor([[0.0, 0.0], [2.0, 1.0]]), torch.tensor([0.3, 1.0])).tolist()
        [[0.30000001192092896, 1.0], [2.0, 1.0]]
    """
    spread = scores.amax(1, keepdim=True) - scores.amin(1, keepdim=True)  # (B, 1)
    alike = spread <= ROUNDING * scores.abs().amax(1, keepdim=True)  # (B, 1)
    return torch.where(alike, popular.to(scores), scores)


def popularity(dataset: Dataset) -> Tensor:
    """Return how often each item was chosen (I,), in all splits, the most popular one 1."""
    count = sum(np.bincount(dataset.split(split).items, minlength=dataset.num_items) for split in SPLITS)
    return torch.as_tensor(count / max(np.max(count), 1), dtype=torch.float32)


class RankingGraph(nn.Module):
    """The noise-free chain of a policy, and the K best items; those of the history are masked.

    Attributes:
        policy: the recommender.
        top: K.
        length: latest items of a history that the model reads; None for all. All of them are masked.
        rows: whether the input is a weighted row (B, I) instead of a history.
        repeats: whether the list may hold items of the history: nothing is masked.
        popular: (I,) how popular each item is: the order of a list where the model scores all items alike.
    """

    popular: Tensor | None

    def __init__(
        self,
        policy: DiffusionPolicy,
        top: int,
        length: int | None = None,
        *,
        rows: bool = False,
        repeats: bool = False,
        popular: Tensor | None = None,
    ) -> None:
        """Store the policy, in evaluation mode.

        Args:
            policy: the recommender.
            top: K.
            length: latest items of a history that the model reads; None for all.
            rows: whether the input is a weighted row (B, I).
            repeats: whether nothing is masked.
            popular: (I,) how popular each item is; None leaves such a list to the scores.

        Raises:
            ValueError: if ``top`` is outside 1..I.
        """
        super().__init__()
        self.policy, self.top, self.length = policy.eval(), top, length
        self.rows, self.repeats = rows, repeats
        self.register_buffer("popular", None if popular is None else popular.to(policy.device))
        if not 1 <= top <= policy.backbone.num_items:
            raise ValueError(f"top={top} must lie in 1..{policy.backbone.num_items}, the number of items")

    def forward(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """Rank the items for each history.

        Args:
            history: (B, n) int64 items, oldest first; numbers outside 0..I-1 are padding. With ``rows``:
                (B, I) float32, above 0 where the person has the item.

        Returns:
            Items (B, K) int64, best first, and their scores (B, K); -1 and -inf where no item is left.
        """
        count = self.policy.backbone.num_items
        if self.rows:
            shown, hidden = history, history > 0
        else:
            there, _, _ = places_in(history, count)  # (B, n)
            column = torch.where(there, history, count)  # (B, n)
            hidden = torch.zeros(history.shape[0], count + 1, dtype=torch.bool, device=history.device)
            hidden = hidden.scatter(1, column, torch.ones_like(column, dtype=torch.bool))[:, :count]
            read = history if self.length is None else latest_items(history, count, self.length)
            shown = self.policy.backbone.show(read)
        users = torch.zeros(history.shape[0], dtype=torch.int64, device=history.device)
        scores = self.policy.scores(users, shown)  # (B, I)
        if self.popular is not None:
            scores = popular_where_alike(scores, self.popular)
        if not self.repeats:
            scores = scores.masked_fill(hidden, -math.inf)
        score, item = scores.topk(self.top, dim=1)  # (B, K)
        return torch.where(score > -math.inf, item, NOTHING), score
