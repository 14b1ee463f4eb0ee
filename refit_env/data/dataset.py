"""A data set in memory: ragged rows, sorted by time within each user, and their sparse matrices.

Letters: U users, I items, N interactions of one split, B users in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from refit_env.data.fingerprint import fingerprint
from refit_env.data.ids import IdMap

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

    def by_time(self) -> Interactions:
        """Return the interactions sorted by time within each user; unchanged where no times are known."""
        if self.timestamps is None:
            return self
        order = np.lexsort((self.timestamps, self.users))  # stable: equal times keep their order
        return replace(
            self,
            items=self.items[order],
            timestamps=self.timestamps[order],
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


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set: three splits over the same users and items.

    Attributes:
        name: catalogue name, for example ``"ml-1m"``, or the folder's name.
        task: ``"cf"``, ``"sequential"``, ``"social"`` or ``"poi"``.
        train: interactions for training, and the input of a model.
        valid: interactions for model selection.
        test: interactions for the final evaluation only.
        time_ordered: whether each user's rows are sorted by time (``"recent"`` needs it).
        social: (S, 2) int32 directed user pairs, or None.
        meta: the other fields of ``dataset.json`` (source, licence, counts ...).
        user_ids: (U,) the source's id of each user, where preparation renumbered them, else None.
        item_ids: (I,) the same for items.
        item_features: features of the items, for example ``"lat"`` and ``"lon"``: name -> (I,) values.
        origin: fingerprint of the data set from which this one was derived, else None.
    """

    name: str
    task: str
    train: Interactions
    valid: Interactions
    test: Interactions
    time_ordered: bool
    social: npt.NDArray[np.int32] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    user_ids: npt.NDArray[Any] | None = None
    item_ids: npt.NDArray[Any] | None = None
    item_features: Mapping[str, npt.NDArray[Any]] | None = None
    origin: str | None = None

    def __repr__(self) -> str:
        """Return name, task and counts, without the arrays."""
        rows = " / ".join(f"{len(self.split(name))} {name}" for name in SPLITS)
        sizes = f"{self.num_users} users, {self.num_items} items"
        return f"{type(self).__name__}({self.name!r}, {self.task}, {sizes}, {rows})"

    @property
    def num_users(self) -> int:
        """U."""
        return self.train.num_users

    @property
    def num_items(self) -> int:
        """I."""
        return self.train.num_items

    @cached_property
    def users_by_id(self) -> IdMap:
        """The source's ids of the users."""
        return IdMap("user", self.num_users, self.user_ids, self.name)

    @cached_property
    def items_by_id(self) -> IdMap:
        """The source's ids of the items."""
        return IdMap("item", self.num_items, self.item_ids, self.name)

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits, the sha256 of the content; see ``refit_env.data.fingerprint``.

        Derived data sets (``episodes``, ``showing``, ``learning_validation_of``) have the fingerprint of the
        data set from which they were derived, so that their models belong to that data set.
        """
        return fingerprint(self) if self.origin is None else self.origin

    def split(self, name: str) -> Interactions:
        """Return the split called ``"train"``, ``"valid"`` or ``"test"``."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]

    @cached_property
    def episodes(self) -> Dataset:
        """The data set in which one *user* is one episode.

        This data set itself, unless one user has many episodes: a sequential set, and a check-in set that is
        sorted by time, becomes rows, each a history and the item that came next
        (``refit_env.data.sequences.RowDataset``).
        """
        from refit_env.data.sequences import LENGTHS, as_rows, is_rows  # that module imports this one

        return as_rows(self, LENGTHS[self.task]) if is_rows(self) else self

    @cached_property
    def served(self) -> Dataset:
        """The data set for a deployed model: all interactions are train items, none is held out.

        Where episodes are rows, it has one row for each user of the source: the latest items of the whole
        history, without a target.
        """
        from refit_env.data.sequences import LENGTHS, is_rows, next_rows

        if is_rows(self):
            return next_rows(self, LENGTHS[self.task])
        known = _joined(_joined(self.train, self.valid), self.test)
        none = Interactions.from_pairs([], [], self.num_users, self.num_items)
        return replace(self, train=known.by_time(), valid=none, test=none, origin=self.fingerprint)

    def masked(self, split: str) -> sp.csr_matrix:
        """Return the seen items (U, I) that are masked when ``"valid"`` or ``"test"`` items are ranked."""
        if split == "valid":
            return self.train.csr
        return sp.csr_matrix(self.train.csr + self.valid.csr)

    def population(self, split: str) -> int:
        """Return the number of users for metrics that average over all users: U."""
        return self.num_users

    def showing(self, visible: sp.csr_matrix) -> Dataset:
        """Return this data set with only the train items that ``visible`` (U, I) stores, in their order.

        The result has no test items. If ``visible`` is the whole train matrix, it is this data set itself.

        Example:
            >>> pairs = Interactions.from_pairs([0, 0, 1], [2, 0, 1], num_users=2, num_items=3)
            >>> shop = Dataset("shop", "cf", pairs, pairs, pairs, time_ordered=True)
            >>> shop.showing(sp.csr_matrix([[1, 0, 0], [0, 1, 0]])).train.items
            array([0, 1], dtype=int32)
        """
        if visible is self.train.csr:
            return self
        train, width = self.train, self.num_items
        stored = np.repeat(np.arange(self.num_users, dtype=np.int64), np.diff(visible.indptr)) * width
        keep = np.isin(train.users * width + train.items, stored + visible.indices)  # (N,)
        nothing = Interactions.from_pairs([], [], self.num_users, width)
        return replace(self, train=train.select(keep), test=nothing, origin=self.fingerprint)

    def learning_validation_of(self, users: npt.NDArray[np.int64]) -> Dataset:
        """Return this data set with the validation items of ``users`` (n,) appended to their train items.

        A supervised model that is trained on it has the information that a reward on those items contains.

        Example:
            >>> train = Interactions.from_pairs([0, 1], [2, 1], num_users=2, num_items=3)
            >>> valid = Interactions.from_pairs([0, 1], [0, 0], num_users=2, num_items=3)
            >>> shop = Dataset("shop", "cf", train, valid, valid, time_ordered=True)
            >>> more = shop.learning_validation_of(np.array([0]))
            >>> more.train.of(0), more.valid.of(0), more.valid.of(1)
            (array([2, 0], dtype=int32), array([], dtype=int32), array([0], dtype=int32))
        """
        moved = np.isin(self.valid.users, users)  # (N,)
        more = _joined(self.train, self.valid.select(moved))
        return replace(self, train=more, valid=self.valid.select(~moved), origin=self.fingerprint)


def _joined(first: Interactions, then: Interactions) -> Interactions:
    """Concatenate the rows of each user, those of ``first`` before those of ``then``."""
    both = first, then
    times, ratings = [part.timestamps for part in both], [part.ratings for part in both]
    return Interactions.from_pairs(
        np.concatenate([part.users for part in both]),
        np.concatenate([part.items for part in both]),
        first.num_users,
        first.num_items,
        None if any(part is None for part in times) else np.concatenate(times),  # type: ignore[arg-type]
        None if any(part is None for part in ratings) else np.concatenate(ratings),  # type: ignore[arg-type]
    )
