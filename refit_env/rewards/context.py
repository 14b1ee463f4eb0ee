"""What the rewards of one problem share: data, relevance, neighbours, the lists of all users.

Letters: B users (episodes) in the batch, I items, K list length, M neighbours, U users of the data set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from msgspec import Meta
from torch import Tensor

from refit_env.data.dataset import Dataset
from refit_env.data.rows import SparseRows
from refit_env.errors import SettingError
from refit_env.evaluation.metrics import rankable, top_k
from refit_env.neighbors import cached_neighbors, neighbor_average
from refit_env.rewards.relevance import Relevance
from refit_env.settings import check_setting

NEIGHBORS = 10
"""M of the paper, and of the reference lists."""

CACHED = 2**20
"""Scores that are masked and ranked at a time."""


class RewardContext:
    """The inputs of rewards: the data, the relevance, the list length, the device.

    The rewards of a mix share one, so that sparse rows and neighbours are computed once.

    Attributes:
        dataset: rewards read its train split and, through ``relevance``, its valid one; never its test split.
        relevance: the visible, the relevant and the masked items.
        k: list length K.
        device: device of the scores.
        model: folder of the environment's pretrained model, or None.
        other_data: whether models may have been trained on another data set.
    """

    def __init__(
        self,
        dataset: Dataset,
        relevance: Relevance,
        k: int = 20,
        device: torch.device | str = "cpu",
        model: str | Path | None = None,
        other_data: bool = False,
    ) -> None:
        """Set the attributes; ``ValueError`` if k is not a whole number in 1..I."""
        check_setting("k", k, Annotated[int, Meta(ge=1)])
        if k > dataset.num_items:
            raise SettingError("k", f"must lie in 1..{dataset.num_items}, the number of items, found {k}")
        self.dataset, self.relevance, self.k, self.device = dataset, relevance, int(k), torch.device(device)
        self.model, self.other_data = model, other_data
        self._reference_lists: dict[int, Tensor] = {}

    @property
    def num_users(self) -> int:
        """U."""
        return self.dataset.num_users

    @property
    def num_items(self) -> int:
        """I."""
        return self.dataset.num_items

    @cached_property
    def relevant(self) -> SparseRows:
        """(U, I) the relevant items."""
        return SparseRows(self.relevance.relevant, self.device)

    @cached_property
    def hidden(self) -> SparseRows | None:
        """(U, I) the masked items, which no list may hold; None if no item is masked."""
        return None if self.relevance.hidden is None else SparseRows(self.relevance.hidden, self.device)

    @cached_property
    def lists_may_fall_short(self) -> bool:
        """Whether some user has fewer than K items that are not masked, so that masked ones fill the list."""
        rows = self.relevance.hidden
        return rows is not None and bool((self.num_items - np.diff(rows.indptr) < self.k).any())

    @cached_property
    def popularity(self) -> npt.NDArray[np.float64]:
        """(I,) number of users with each item among their visible ones."""
        counts = np.bincount(self.relevance.visible.indices, minlength=self.num_items)
        return np.asarray(counts, dtype=np.float64)

    def hidden_mask(self, users: Tensor) -> Tensor | None:
        """(B, I) bool, the masked items of ``users``; None if no item is masked."""
        return None if self.hidden is None else self.hidden.mask(users)

    def top_k(self, scores: Tensor, users: Tensor) -> Tensor:
        """(B, K) the lists of ``scores`` (B, I), best item first, ties to the lower id.

        Raises:
            ValueError: if a score is NaN, hidden or not.
        """
        return self.ranked(rankable(scores), users)

    def ranked(self, scores: Tensor, users: Tensor) -> Tensor:
        """``top_k`` of scores (B, I) that are known to be finite: nothing is checked."""
        parts = self.masked(scores, users, -math.inf)
        return torch.cat([top_k(part, self.k) for part, _ in parts])

    def masked(self, scores: Tensor, users: Tensor, value: float) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the scores with ``value`` for the masked items, some users at a time.

        Yields:
            (b, I) scores and their (b,) users, in order; on a CPU so few that the copy fits in the cache.
        """
        if self.hidden is None:
            yield scores, users
            return
        size = max(1, users.numel() if scores.is_cuda else CACHED // self.num_items)
        for part, some in zip(torch.split(scores, size), torch.split(users, size), strict=True):
            yield self.hidden.fill(part, some, value), some

    def neighbors(self, count: int, search: str = "exact") -> npt.NDArray[np.int64]:
        """(U, count) the most similar users by the cosine of the visible rows, -1 where there are fewer."""
        return cached_neighbors(self.relevance.visible, count, self.relevance.groups, search)

    def lists_by(self, score: Callable[[Tensor], Tensor], batch: int = 512) -> Tensor:
        """(U, K) the lists of all ``peers`` from the scores of a model, users (B,) -> scores (B, I)."""
        [lists] = lists_of_each([self], score, batch)
        return lists

    @cached_property
    def peers(self) -> Tensor:
        """(n,) users with a visible item, who have lists.

        In a sequential set they do not include rows of other splits, whose histories hold validation and test
        targets.
        """
        return torch.as_tensor(np.flatnonzero(np.diff(self.relevance.visible.indptr)), device=self.device)

    def checked_lists(self, lists: Tensor) -> Tensor:
        """Return the lists (U, K) as int64 on the device, after a check of their shape and their items."""
        expected = (self.num_users, self.k)
        if tuple(lists.shape) != expected:
            raise ValueError(f"lists of shape {tuple(lists.shape)}, expected {expected}: one for each user")
        if bool((lists < 0).any()) or bool((lists >= self.num_items).any()):
            raise ValueError(f"lists hold items outside 0..{self.num_items - 1}")
        return lists.to(self.device, torch.int64)

    def reference_lists(self, neighbors: int = NEIGHBORS) -> Tensor:
        """(U, K) lists of a user-based nearest-neighbour recommender on the visible rows.

        Rewards that use other users' lists start from these, until an agent sets its own. Items that
        as many neighbours have are ordered by popularity. Computed at the first use: it takes seconds.
        """
        if neighbors not in self._reference_lists:
            self._reference_lists[neighbors] = self._make_reference_lists(neighbors)
        return self._reference_lists[neighbors]

    def _make_reference_lists(self, neighbors: int) -> Tensor:
        """See ``reference_lists``."""
        rows = SparseRows(neighbor_average(self.neighbors(neighbors), self.relevance.visible), self.device)
        share = self.popularity / max(self.popularity.max(), 1.0) * 0.5 / neighbors  # less than one neighbour
        tie_break = torch.as_tensor(share, dtype=torch.float32, device=self.device)  # (I,)
        return self.lists_by(lambda users: rows.dense(users) + tie_break)


def lists_of_each(
    contexts: Sequence[RewardContext], score: Callable[[Tensor], Tensor], batch: int = 512
) -> list[Tensor]:
    """Return the lists (U, K) of all users from the scores of a model, for each of several contexts.

    Only peers are scored; the other rows are 0 .. K-1, which no reward reads.

    Args:
        contexts: with the same data set, K and device.
        score: users (B,) -> scores (B, I); each user is scored once.
        batch: users scored at a time.
    """
    if not contexts:
        return []
    first = contexts[0]
    out = torch.arange(first.k, device=first.device).expand(len(contexts), first.num_users, -1).clone()
    peers = torch.unique(torch.cat([context.peers for context in contexts]))  # (n,)
    for users in torch.split(peers, batch):
        scores = score(users)  # (B, I)
        for context, lists in zip(contexts, out, strict=True):
            lists[users] = context.top_k(scores, users)
    return list(out)
