"""The interactions of one split: ragged rows, sorted by time within each user, and their sparse matrix.

Letters: U users, I items, N interactions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

SPLITS = ("train", "valid", "test")
"""Names of the values 0, 1, 2 of the canonical ``split`` column."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """The interactions of one split, grouped by user, oldest first where time is known.

    Attributes:
        indptr: (U + 1,) int64; user ``u`` has ``items[indptr[u]:indptr[u + 1]]``.
        items: (N,) int32 item ids, each at most once per user, except in sequential and POI
            sets, where a repeat is a separate event.
        num_items: I.
        timestamps: (N,) float64 seconds, or None where the source has none.
        ratings: (N,) float32, or None where the source has none.
    """

    indptr: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]
    num_items: int
    timestamps: npt.NDArray[np.float64] | None = None
    ratings: npt.NDArray[np.float32] | None = None

    def __repr__(self) -> str:
        """Return the counts, without the arrays."""
        return f"Interactions({self.num_users} users, {self.num_items} items, {len(self)} rows)"

    @classmethod
    def from_pairs(
        cls,
        users: npt.ArrayLike,
        items: npt.ArrayLike,
        num_users: int,
        num_items: int,
        timestamps: npt.ArrayLike | None = None,
        ratings: npt.ArrayLike | None = None,
    ) -> Interactions:
        """Group (user, item) rows by user, keeping the order of the rows within a user.

        Args:
            users: (N,) ids in 0..num_users - 1, in any order.
            items: (N,) ids in 0..num_items - 1.
            num_users: U.
            num_items: I.
            timestamps: (N,) seconds, optional.
            ratings: (N,) optional.

        Example:
            >>> Interactions.from_pairs([1, 0, 1], [7, 3, 2], num_users=2, num_items=8).of(1)
            array([7, 2], dtype=int32)
        """
        user_ids = np.asarray(users, dtype=np.int64)
        order = np.argsort(user_ids, kind="stable")
        indptr = np.zeros(num_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(user_ids, minlength=num_users), out=indptr[1:])
        return cls(
            indptr=indptr,
            items=np.asarray(items, dtype=np.int32)[order],
            num_items=num_items,
            timestamps=None if timestamps is None else np.asarray(timestamps, np.float64)[order],
            ratings=None if ratings is None else np.asarray(ratings, np.float32)[order],
        )

    def __len__(self) -> int:
        """Return N, the number of interactions."""
        return int(self.items.size)

    @property
    def num_users(self) -> int:
        """U."""
        return int(self.indptr.size - 1)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(U,) interactions of each user."""
        return np.diff(self.indptr)

    @property
    def users(self) -> npt.NDArray[np.int64]:
        """(N,) the user of each interaction."""
        return np.repeat(np.arange(self.num_users, dtype=np.int64), self.counts)

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """(N,) the place of each interaction in its user's row; 0 is the first."""
        return np.arange(len(self), dtype=np.int64) - self.indptr[self.users]

    def shuffled_places(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return ``places`` (N,) after a random permutation of each user's row; all are equally likely."""
        order = np.lexsort((rng.random(len(self)), self.users))
        place = np.empty(len(self), dtype=np.int64)
        place[order] = self.places
        return place

    def of(self, user: int) -> npt.NDArray[np.int32]:
        """Return the items (n_u,) of one user, oldest first where time is known."""
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def select(self, keep: npt.NDArray[np.bool_]) -> Interactions:
        """Keep the interactions where ``keep`` (N,) is true; users and items keep their ids."""
        return Interactions.from_pairs(
            self.users[keep],
            self.items[keep],
            self.num_users,
            self.num_items,
            None if self.timestamps is None else self.timestamps[keep],
            None if self.ratings is None else self.ratings[keep],
        )

    def part(self, first: int, last: int) -> Interactions:
        """Return the rows of the users ``first`` .. ``last`` - 1, renumbered from 0; its items are views.

        Example:
            >>> rows = Interactions.from_pairs([0, 1, 1], [7, 3, 2], num_users=2, num_items=8)
            >>> rows.part(1, 2).of(0)
            array([3, 2], dtype=int32)
        """
        begin, end = int(self.indptr[first]), int(self.indptr[last])
        return Interactions(
            self.indptr[first : last + 1] - begin,
            self.items[begin:end],
            self.num_items,
            None if self.timestamps is None else self.timestamps[begin:end],
            None if self.ratings is None else self.ratings[begin:end],
        )

    def by_time(self) -> Interactions:
        """Return the interactions sorted by time within each user; unchanged where no times are known."""
        if self.timestamps is None:
            return self
        return self.sorted_by(self.timestamps)

    def first_times(self) -> npt.NDArray[np.float64]:
        """Return the time of each user's first interaction (U,); inf without one, or without times."""
        first = np.full(self.num_users, np.inf)
        if self.timestamps is not None:
            np.minimum.at(first, self.users, self.timestamps)
        return first

    def sorted_by(self, key: npt.NDArray[np.float64]) -> Interactions:
        """Return each user's row sorted by ``key`` (N,); equal values keep their order."""
        order = np.lexsort((key, self.users))
        return replace(
            self,
            items=self.items[order],
            timestamps=None if self.timestamps is None else self.timestamps[order],
            ratings=None if self.ratings is None else self.ratings[order],
        )

    @cached_property
    def csr(self) -> sp.csr_matrix:
        """(U, I) float32 binary matrix with sorted indices; repeats count once."""
        matrix = sp.csr_matrix(
            (np.ones(len(self), np.float32), self.items.astype(np.int64), self.indptr),
            shape=(self.num_users, self.num_items),
        )
        matrix.sum_duplicates()  # also sorts the indices
        matrix.data[:] = 1.0
        return matrix


def joined(first: Interactions, then: Interactions) -> Interactions:
    """Concatenate the rows of each user, those of ``first`` before those of ``then``."""
    both = first, then
    return Interactions.from_pairs(
        np.concatenate([part.users for part in both]),
        np.concatenate([part.items for part in both]),
        first.num_users,
        first.num_items,
        _concatenated([part.timestamps for part in both]),
        _concatenated([part.ratings for part in both]),
    )


def spread(first: Interactions, then: Interactions) -> Interactions:
    """Merge the rows of each user: ``first`` in its order, and ``then`` at even distances in between.

    Example:
        >>> rows = Interactions.from_pairs([0, 0, 0, 0], [4, 1, 3, 0], num_users=1, num_items=5)
        >>> spread(rows, Interactions.from_pairs([0], [2], num_users=1, num_items=5)).of(0)
        array([4, 1, 2, 3, 0], dtype=int32)
    """
    both = joined(first, then)
    own, place = first.counts[both.users], both.places  # (N,) each
    behind = place - own  # place among the items of ``then``, from 0 on
    rest = np.maximum(then.counts[both.users], 1)
    # Middles of equal parts of 0..1; at equal ones ``first`` comes first.
    return both.sorted_by(np.where(behind < 0, (place + 0.5) / np.maximum(own, 1), (behind + 0.5) / rest))


def _concatenated(parts: Sequence[npt.NDArray[Any] | None]) -> npt.NDArray[Any] | None:
    """Return the parts as one array; None where one of them is unknown."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None
