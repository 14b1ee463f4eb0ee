"""Simulated sessions on users' train items: some are known, the others are hidden, and each one found pays 1.

A session knows a part of its user's train items, of random size, and shows one item at a time, none twice and
none that it knows. Policies of interactive recommendation are trained on it.

Letters: U users, I items, N train interactions, B sessions, L length of a window of known items.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from refit_env.data.dataset import Dataset


class Session:
    """B sessions at one step: what may still be shown, and what still pays.

    Attributes:
        window: (B, L) int64 the last known items, oldest first, padded with I in front.
        known: (B, I) bool the known items.
        hidden: (B, I) bool the train items that are not known.
        closed: (B, I) bool the items that cannot be shown: known or shown.
    """

    def __init__(self, window: Tensor, known: Tensor, hidden: Tensor) -> None:
        """Begin the sessions."""
        self.window, self.known, self.hidden = window, known, hidden
        self.closed = known.clone()

    def best(self, scores: Tensor) -> Tensor:
        """Return the best item (B,) of ``scores`` (B, I) that can be shown; I where there is none."""
        item = scores.masked_fill(self.closed, float("-inf")).argmax(1)
        return item.where(~self.closed.all(1), scores.shape[1])

    def show(self, items: Tensor) -> Tensor:
        """Show ``items`` (B,), and return which were hidden ones, (B,) bool; I shows nothing."""
        there = items < self.closed.shape[1]
        row, item = there.nonzero()[:, 0], items[there]
        self.closed[row, item] = True
        hits = torch.zeros_like(there)
        hits[there] = self.hidden[row, item]
        return hits


class TrainItems(nn.Module):
    """The train items of each user in one order: that of time, or a random one where there is none."""

    items: Tensor
    indptr: Tensor
    some: Tensor

    def __init__(self, data: Dataset, latest: bool) -> None:
        """Store the items.

        Args:
            data: sets of items.
            latest: whether sessions hide the latest items where the data set is sorted by time; otherwise
                the hidden items are drawn at random.
        """
        super().__init__()
        self.num_items = data.num_items
        self.latest = latest and data.time_ordered
        counts = np.diff(data.train.indptr)
        items = torch.as_tensor(data.train.items.astype(np.int64))  # (N,)
        if not data.time_ordered:
            items = items[_shuffled(torch.as_tensor(np.repeat(np.arange(len(counts)), counts)))]
        self.register_buffer("items", items, persistent=False)
        self.register_buffer("indptr", torch.as_tensor(data.train.indptr), persistent=False)
        self.register_buffer("some", torch.as_tensor(counts).nonzero()[:, 0], persistent=False)

    def draw(self, count: int, length: int) -> Session:
        """Begin sessions of ``count`` users with train items, drawn at random, with windows of ``length``."""
        drawn = torch.randint(len(self.some), (count,), device=self.some.device)
        users = self.some[drawn]  # (B,)
        sizes = self.indptr[users + 1] - self.indptr[users]  # (B,)
        shown = (torch.rand(count, dtype=torch.float64, device=users.device) * sizes).long()  # 0..n - 1
        row, place, item = self._entries(users)
        rank = place
        if not self.latest:
            rank = torch.empty_like(place)
            rank[_shuffled(row)] = place
        known = rank < shown[row]
        masks = torch.zeros(2, count, self.num_items, dtype=torch.bool, device=users.device)
        masks[0, row[known], item[known]] = True
        masks[1, row[~known], item[~known]] = True
        return Session(self._last(row[known], item[known], shown, length), masks[0], masks[1])

    def window(self, users: Tensor, length: int) -> Tensor:
        """Return the last train items (B, L) of ``users`` (B,), padded with I in front."""
        row, _, item = self._entries(users)
        return self._last(row, item, self.indptr[users + 1] - self.indptr[users], length)

    def _entries(self, users: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return batch row, place among the user's items, and item of the users' items, each (n,)."""
        sizes = self.indptr[users + 1] - self.indptr[users]  # (B,)
        row = torch.arange(len(users), device=users.device).repeat_interleave(sizes)
        place = torch.arange(len(row), device=users.device) - (sizes.cumsum(0) - sizes)[row]
        return row, place, self.items[self.indptr[users][row] + place]

    def _last(self, row: Tensor, item: Tensor, sizes: Tensor, length: int) -> Tensor:
        """Return the last items (B, L) of each row, of which ``sizes`` (B,) are in ``row`` and ``item``."""
        column = torch.arange(len(row), device=row.device) - sizes.cumsum(0)[row] + length  # L - 1: the last
        out = torch.full((len(sizes), length), self.num_items, device=row.device)
        out[row[column >= 0], column[column >= 0]] = item[column >= 0]
        return out


def _shuffled(row: Tensor) -> Tensor:
    """Return a permutation (n,) that mixes the entries of each row; ``row`` (n,) is ascending."""
    return (row + torch.rand(len(row), dtype=torch.float64, device=row.device)).argsort()
