"""Filters of raw rows before the split: rating threshold, duplicates, sessions, k-core, dense ids.

Letters: N rows, M rows kept, U users, I items, S social edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from refit_env.data.messages import spelled
from refit_env.data.times import to_seconds
from refit_env.errors import DataError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RawRows:
    """Rows as a reader returns them, in the order of the file.

    Attributes:
        users: (N,) int64 ids >= 0, or objects where a format has tokens.
        items: (N,) the same.
        timestamps: (N,) float64 seconds, or None. If ``unix`` is set, numbers of a unit that is not known
            yet; see ``in_seconds``.
        ratings: (N,) float64, or None.
        split: (N,) int8 0 train, 1 valid, 2 test, or None where the files are not split.
        social: (S, 2) directed pairs of users, by the same ids, or None.
        item_table: features of the items: column name -> (I,) values; the column ``"item"`` holds their ids,
            each once. None where there are none.
        dropped: number of rows that the reader dropped, by reason.
        unix: whether the timestamps are the file's numbers, not yet converted to seconds.
        unread_ratings: whether the files have a column of ratings that was not read.
        unread_split: whether the files have a column of splits that was not read.
        notes: what the reader has to say about the files, a line each.
        shape: (U, I) where the files state it, else None.
        user_names: (U,) readable ids, by the number in ``users``, where a filter created the users; else
            None.
    """

    users: npt.NDArray[Any]
    items: npt.NDArray[Any]
    timestamps: npt.NDArray[np.float64] | None = None
    ratings: npt.NDArray[np.float64] | None = None
    split: npt.NDArray[np.int8] | None = None
    social: npt.NDArray[Any] | None = None
    item_table: Mapping[str, npt.NDArray[Any]] | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    unix: bool = False
    unread_ratings: bool = False
    unread_split: bool = False
    notes: tuple[str, ...] = ()
    shape: tuple[int, int] | None = None
    user_names: npt.NDArray[Any] | None = None

    def __len__(self) -> int:
        """Return N."""
        return int(self.users.size)

    def take(self, chosen: npt.NDArray[Any]) -> RawRows:
        """Return the rows where ``chosen`` (N,) is true, or those at the positions in ``chosen`` (M,)."""
        return replace(
            self,
            users=self.users[chosen],
            items=self.items[chosen],
            timestamps=None if self.timestamps is None else self.timestamps[chosen],
            ratings=None if self.ratings is None else self.ratings[chosen],
            split=None if self.split is None else self.split[chosen],
        )

    def part(self, split: int) -> RawRows:
        """Return the rows of one split; no rows where there is no split."""
        if self.split is None:
            return self.take(np.zeros(len(self), dtype=bool))
        return self.take(self.split == split)


def in_seconds(rows: RawRows, where: str, unit: str | None) -> tuple[RawRows, tuple[str, ...]]:
    """Return the rows with times in seconds, and a note for the report if they were converted.

    Args:
        rows: as a reader returns them.
        where: their file, for the message.
        unit: unit of the file's times, a key of ``refit_env.data.times.UNITS``; None detects it.

    Raises:
        DataError: if the unit is ambiguous, or is stated for times that are not numbers.
    """
    if rows.timestamps is None or not rows.unix:
        if unit is not None:
            what = "no times" if rows.timestamps is None else "dates, not numbers"
            raise DataError(f"{where}: {spelled('time_unit', repr(unit), unit)}, but these files have {what}")
        return rows, ()
    seconds, notes = to_seconds(where, rows.timestamps, unit)
    return replace(rows, timestamps=seconds, unix=False), notes


def at_least(rows: RawRows, min_rating: float, setting: str = "min_rating") -> RawRows:
    """Keep the rows with ``rating >= min_rating``.

    Args:
        rows: with ratings.
        min_rating: the threshold.
        setting: its name, for the message.

    Raises:
        DataError: if the rows have no ratings.
    """
    if rows.ratings is None:
        least, column = f"{min_rating:g}", spelled("columns", "{'rating': NAME}", "rating=NAME")
        raise DataError(
            f"{spelled(setting, least, least)} needs ratings, but no column holds them; {column} names one"
        )
    return rows.take(rows.ratings >= min_rating)


def merge_duplicates(rows: RawRows) -> tuple[RawRows, int]:
    """Keep one row of each (user, item) pair: the first split's, then the earliest, then the first.

    Returns:
        The rows, in their order, and the number of rows dropped.

    Example:
        >>> twice = RawRows(np.array([0, 0, 1]), np.array([5, 5, 5]), np.array([9.0, 3.0, 4.0]))
        >>> rows, dropped = merge_duplicates(twice)
        >>> rows.timestamps, dropped
        (array([3., 4.]), 1)
    """
    if not pd.DataFrame({"user": rows.users, "item": rows.items}).duplicated().any():  # the usual case
        return rows, 0
    users, items = compact(rows.users)[0], compact(rows.items)[0]
    keys: list[npt.NDArray[Any]] = [np.arange(len(rows))]
    keys += [k for k in (rows.timestamps, rows.split) if k is not None]
    order = np.lexsort((*keys, items, users))  # the last key is the primary one
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (np.diff(users[order]) != 0) | (np.diff(items[order]) != 0)
    keep = np.sort(order[first])
    return rows.take(keep), len(rows) - int(keep.size)


def daily_sessions(rows: RawRows, utc_offset: float = 0.0) -> RawRows:
    """Turn each day of each user into a separate user, sorted by time.

    Args:
        rows: with timestamps.
        utc_offset: hours by which the days begin before those of UTC.

    Returns:
        The rows, sorted by time; the new users are numbered from 0 by the time of their first row, and
        ``user_names`` holds the source's user and the day of each. Social edges are dropped, because they
        connect users, not sessions.

    Raises:
        DataError: if the rows have no timestamps.

    Example:
        >>> rows = RawRows(np.array([4, 4, 4]), np.array([0, 1, 2]), np.array([0.0, 7200.0, 90000.0]))
        >>> days = daily_sessions(rows)
        >>> days.users, days.user_names
        (array([0, 0, 1]), array(['4 1970-01-01', '4 1970-01-02'], dtype=object))
    """
    if rows.timestamps is None:
        raise DataError(
            f"{spelled('session', repr('day'), 'day')} needs timestamps, but these files have none"
        )
    rows = rows.take(np.argsort(rows.timestamps, kind="stable"))
    assert rows.timestamps is not None
    dates = np.floor((rows.timestamps + 3600.0 * utc_offset) / 86400.0)  # (N,) days since 1970
    days = compact(dates)[0]  # (N,)
    users = compact(rows.users)[0]
    sessions, _ = pd.factorize(users * (int(days.max(initial=0)) + 1) + days)
    first = np.unique(sessions, return_index=True)[1]  # (U,)
    calendar = dates[first].astype("datetime64[D]").astype(str)  # (U,)
    names = [f"{user} {day}" for user, day in zip(rows.users[first].tolist(), calendar, strict=True)]
    return replace(
        rows, users=sessions.astype(np.int64), social=None, user_names=np.array(names, dtype=object)
    )


def k_core(rows: RawRows, k: int, k_items: int | None = None, passes: int = 0) -> RawRows:
    """Return the largest part in which every user has at least ``k`` rows, and every item ``k_items``.

    Args:
        rows: to filter.
        k: least number of rows of a user.
        k_items: least number of rows of an item; None is ``k``.
        passes: how often to count and drop; 0 repeats until nothing is dropped. After a fixed number of
            passes, as in the scripts of some papers, some users or items may still have fewer rows.

    Example:
        >>> rows = RawRows(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 1]))
        >>> k_core(rows, 2).users
        array([0, 0, 1, 1])
    """
    k_items = k if k_items is None else k_items
    if min(k, k_items) < 0:
        least = str(min(k, k_items))
        raise ValueError(f"{spelled('k_core', least, least)} must be 0 (no filter) or more")
    users, items = compact(rows.users)[0], compact(rows.items)[0]
    keep = np.arange(len(rows))
    done = 0
    while keep.size and (done < passes or not passes):
        enough = np.bincount(users[keep])[users[keep]] >= k
        enough &= np.bincount(items[keep])[items[keep]] >= k_items
        if enough.all():
            break
        keep = keep[enough]
        done += 1
    return rows if keep.size == len(rows) else rows.take(keep)


def compact(ids: npt.NDArray[Any]) -> tuple[IntArray, npt.NDArray[Any]]:
    """Number the distinct ids from 0 in ascending order.

    Returns:
        (N,) int64 new ids, and the old id of each new one.

    Example:
        >>> compact(np.array([30, 10, 30]))
        (array([1, 0, 1]), array([10, 30]))
    """
    if ids.dtype == object:  # text: hashing is many times faster than sorting
        codes, found = pd.factorize(ids, sort=True)
        return codes.astype(np.int64), np.asarray(found)
    known, new = np.unique(ids, return_inverse=True)
    return new.astype(np.int64).reshape(-1), known


def compact_rows(rows: RawRows) -> tuple[RawRows, npt.NDArray[Any], npt.NDArray[Any]]:
    """Number users and items from 0; also return the source's id of each new user and of each new item.

    Drops social edges of users without rows, self-loops, repeated edges, and items without rows.

    Raises:
        DataError: if an item that has rows is missing from the table of items.
    """
    users, user_ids = compact(rows.users)
    items, item_ids = compact(rows.items)
    social, table = rows.social, rows.item_table
    if social is not None:
        ends = pd.Index(user_ids).get_indexer(social.reshape(-1)).reshape(-1, 2)  # (S, 2) -1 where unknown
        ends = ends[(ends >= 0).all(axis=1) & (ends[:, 0] != ends[:, 1])]
        social = np.unique(ends, axis=0)
    if table is not None:
        place = pd.Index(table["item"]).get_indexer(item_ids)  # (I,)
        if (place < 0).any():
            raise DataError(f"item {item_ids[place < 0][0]} has rows, but is not in the table of items")
        table = {name: values[place] for name, values in table.items()} | {"item": np.arange(item_ids.size)}
    if rows.user_names is not None:
        user_ids = rows.user_names[user_ids]
    rows = replace(rows, users=users, items=items, social=social, item_table=table, user_names=None)
    return rows, user_ids, item_ids
