"""Filters of raw rows before they are split: rating threshold, duplicates, k-core, dense ids.

Letters: N rows, M rows kept, U users, I items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from refit_env.errors import DataError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RawRows:
    """Rows as a reader gives them, in the order of the file.

    Attributes:
        users: (N,) int64 ids >= 0, or objects where a format has tokens.
        items: (N,) the same.
        timestamps: (N,) float64 seconds, or None.
        ratings: (N,) float64, or None.
        split: (N,) int8 0 train, 1 valid, 2 test, or None where the files are not split.
    """

    users: npt.NDArray[Any]
    items: npt.NDArray[Any]
    timestamps: npt.NDArray[np.float64] | None = None
    ratings: npt.NDArray[np.float64] | None = None
    split: npt.NDArray[np.int8] | None = None

    def __len__(self) -> int:
        """N."""
        return int(self.users.size)

    def take(self, chosen: npt.NDArray[Any]) -> RawRows:
        """The rows where ``chosen`` (N,) is true, or those with the positions in ``chosen`` (M,)."""
        return RawRows(
            self.users[chosen],
            self.items[chosen],
            None if self.timestamps is None else self.timestamps[chosen],
            None if self.ratings is None else self.ratings[chosen],
            None if self.split is None else self.split[chosen],
        )

    def part(self, split: int) -> RawRows:
        """The rows of one split; none where the rows are not split."""
        if self.split is None:
            return self.take(np.zeros(len(self), dtype=bool))
        return self.take(self.split == split)


def at_least(rows: RawRows, min_rating: float) -> RawRows:
    """Keep the rows with ``rating >= min_rating``.

    Raises:
        DataError: if the rows have no ratings.
    """
    if rows.ratings is None:
        raise DataError(f"min_rating={min_rating} needs ratings, and these files have none")
    return rows.take(rows.ratings >= min_rating)


def merge_duplicates(rows: RawRows) -> tuple[RawRows, int]:
    """Keep one row of each (user, item) pair: the first split's, then the earliest, then the first.

    Returns:
        The rows, in their order, and how many were dropped.

    Example:
        >>> twice = RawRows(np.array([0, 0, 1]), np.array([5, 5, 5]), np.array([9.0, 3.0, 4.0]))
        >>> rows, dropped = merge_duplicates(twice)
        >>> rows.timestamps, dropped
        (array([3., 4.]), 1)
    """
    if (
        not pd.DataFrame({"user": rows.users, "item": rows.items}).duplicated().any()
    ):  # quick, and the usual case
        return rows, 0
    users, items = compact(rows.users)[0], compact(rows.items)[0]
    keys: list[npt.NDArray[Any]] = [np.arange(len(rows))]
    keys += [k for k in (rows.timestamps, rows.split) if k is not None]
    order = np.lexsort((*keys, items, users))  # the last key counts first
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (np.diff(users[order]) != 0) | (np.diff(items[order]) != 0)
    keep = np.sort(order[first])
    return rows.take(keep), len(rows) - int(keep.size)


def k_core(rows: RawRows, k: int) -> RawRows:
    """The largest part in which every user and every item has at least ``k`` rows.

    Example:
        >>> rows = RawRows(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 1]))
        >>> k_core(rows, 2).users
        array([0, 0, 1, 1])
    """
    if k < 0:
        raise ValueError(f"k_core={k} must be 0 (no filter) or more")
    users, items = compact(rows.users)[0], compact(rows.items)[0]
    keep = np.arange(len(rows))
    while keep.size:
        enough = (np.bincount(users[keep])[users[keep]] >= k) & (np.bincount(items[keep])[items[keep]] >= k)
        if enough.all():
            break
        keep = keep[enough]
    return rows if keep.size == len(rows) else rows.take(keep)


def compact(ids: npt.NDArray[Any]) -> tuple[IntArray, npt.NDArray[Any]]:
    """Number the distinct ids from 0 in ascending order.

    Returns:
        (N,) int64 new ids, and the old id of each new one.

    Example:
        >>> compact(np.array([30, 10, 30]))
        (array([1, 0, 1]), array([10, 30]))
    """
    known, new = np.unique(ids, return_inverse=True)
    return new.astype(np.int64).reshape(-1), known


def compact_rows(rows: RawRows) -> tuple[RawRows, npt.NDArray[Any], npt.NDArray[Any]]:
    """Number users and items from 0; also returns the old id of each new user and of each new item."""
    users, user_ids = compact(rows.users)
    items, item_ids = compact(rows.items)
    return replace(rows, users=users, items=items), user_ids, item_ids
