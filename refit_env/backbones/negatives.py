"""Sampling of negative items, for losses that compare pairs (BPR).

Letters: U users, I items, N interactions, B draws.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from refit_env.backbones.base import Lookup
from refit_env.errors import DataError


class Negatives:
    """Samples uniformly from the items that are not in users' rows, with one random number per draw.

    A user's r-th free item is r plus the number of the user's items before it; these are the items j (the
    j-th smallest is i_j) with i_j - j <= r.

    Example:
        >>> rows = sp.csr_matrix([[1, 0, 1, 0], [0, 1, 1, 1]])
        >>> Negatives(rows).draw(torch.tensor([1, 1])).tolist()
        [0, 0]
    """

    def __init__(self, rows: sp.csr_matrix, device: torch.device | str = "cpu") -> None:
        """Read ``rows`` (U, I).

        Raises:
            DataError: if a row holds all items, so that no negative exists.
        """
        if not rows.has_sorted_indices:
            rows = rows.sorted_indices()
        counts = np.diff(rows.indptr).astype(np.int64)  # (U,)
        self.num_items = int(rows.shape[1])
        if bool((counts >= self.num_items).any()):
            full = int(np.flatnonzero(counts >= self.num_items)[0])
            raise DataError(f"user number {full} has all {self.num_items} items: there is no negative item")
        place = np.arange(rows.nnz) - np.repeat(rows.indptr[:-1], counts)  # (N,) j
        owner = np.repeat(np.arange(len(counts)), counts)  # (N,)
        # Ascending over all users, so that one binary search finds the position within a user's items.
        self._gaps = torch.as_tensor(owner * self.num_items + rows.indices - place, device=device)  # (N,)
        self._first = torch.as_tensor(rows.indptr[:-1].astype(np.int64), device=device)  # (U,)
        self._free = torch.as_tensor(self.num_items - counts, device=device)  # (U,)

    @classmethod
    def of_pairs(cls, pairs: Tensor, num_users: int, num_items: int) -> Negatives:
        """Build a sampler from users and items of interactions ``pairs`` (2, N), on their device."""
        users, items = pairs.cpu().numpy()  # (N,), (N,)
        ones = np.ones(users.size, np.float32)
        return cls(sp.csr_matrix((ones, (users, items)), shape=(num_users, num_items)), pairs.device)

    def draw(self, users: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw one negative item (B,) int64 for each of ``users`` (B,)."""
        share = torch.rand(users.shape, generator=generator, dtype=torch.float64, device=users.device)
        nth = (share * self._free[users]).long()  # (B,) r
        before = torch.searchsorted(self._gaps, users * self.num_items + nth, right=True)
        return nth + before - self._first[users]


def pair_examples(pairs: Tensor, device: torch.device | str) -> tuple[Lookup, Lookup, Tensor]:
    """Return interactions ``pairs`` (2, N) as examples: number -> user, number -> item, all numbers (N,)."""
    users, items = pairs.long().to(device)  # (N,), (N,)
    return lambda ids: users[ids], lambda ids: items[ids], torch.arange(users.numel(), device=device)
