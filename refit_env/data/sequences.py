"""Sequential and check-in sets as rows: a short history and the item that came next.

Letters: R rows, L history length, M items that a backbone reads of it, U users (sessions) of the source,
I items, N interactions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from refit_env.data.dataset import SPLITS, Dataset, Interactions
from refit_env.errors import DataError

LENGTHS: dict[str, int] = {"sequential": 10, "poi": 50}
"""Tasks whose episodes are rows -> history length L. DreamRec has 10. Diff-POI has 100; here it is 50,
because encoding the 300,000 rows of TKY would take too long."""


def is_rows(dataset: Dataset) -> bool:
    """Return whether the episodes of a data set are rows.

    This is true for a sequential set, and for a check-in set that is sorted by time. In a check-in set that
    is not sorted, a user has a set of places, as in the CF task.
    """
    return dataset.task in LENGTHS and (dataset.time_ordered or dataset.task == "sequential")


@dataclass(frozen=True, eq=False, repr=False)
class RowDataset(Dataset):
    """A sequential or check-in set as rows. The rest of the code treats a row as a *user*.

    Each event of a session that has an earlier event is a row: the items before it (its history, at most L,
    oldest first) and the event's item (the target). Row ids are dense: train rows first, then validation and
    test rows, each sorted by session and position. The fields of a data set then have their usual meaning for
    environments, rewards and evaluation:

    - ``train`` holds the history of each row, the input of a model, in every split;
    - ``valid`` and ``test`` hold the targets of the rows of that split, and of no other row;
    - ``targets`` holds the targets of the train rows, for training and rewards.

    A row's history ends before its target, so similarity between rows uses earlier items only. No item is
    masked when rows are ranked (repeats are separate events), as in DreamRec's protocol and in Diff-POI's
    with ``--eval_all``: most next check-ins are at a place that the user has visited before.

    Attributes:
        targets: (R rows) the targets of the train rows.
        history: (R, L) int32 item ids, oldest first, padded with I.
        lengths: (R,) int64 number of items of each history.
        sessions: (R,) int64 the source's user of each row.
        split_of: (R,) int8, 0 train, 1 valid, 2 test.
        empty: by split, the number of rows that were dropped because their target has no earlier event.
        gaps: (R, L) float32 seconds between each item of a history and the user's event before it, 0 at a
            user's first event and at padding; None where the source has no times.
    """

    targets: Interactions = field(kw_only=True)
    history: npt.NDArray[np.int32] = field(kw_only=True)
    lengths: npt.NDArray[np.int64] = field(kw_only=True)
    sessions: npt.NDArray[np.int64] = field(kw_only=True)
    split_of: npt.NDArray[np.int8] = field(kw_only=True)
    empty: Mapping[str, int] = field(kw_only=True)
    gaps: npt.NDArray[np.float32] | None = field(kw_only=True, default=None)

    @property
    def episodes(self) -> Dataset:
        """This data set itself: its users are rows."""
        return self

    @property
    def served(self) -> Dataset:
        """Not available for rows, because a row does not hold the items after its target.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"the rows of {self.name!r} cannot be served; the data set that they come from can")

    def showing(self, visible: sp.csr_matrix) -> Dataset:
        """Return this data set itself: the targets of rows are always hidden."""
        return self

    def masked(self, split: str) -> sp.csr_matrix:
        """Return an empty mask (R, I): every item is ranked, items of the history included."""
        none = np.zeros(0, np.int64)
        shape = (self.num_users, self.num_items)
        return sp.csr_matrix((np.zeros(0, np.float32), (none, none)), shape=shape)

    def population(self, split: str) -> int:
        """Return the number of rows of the split, those without a history included."""
        return int((self.split_of == SPLITS.index(split)).sum()) + self.empty[split]

    def latest(self, length: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Return the last ``length`` items of each history, for a backbone that reads fewer than L.

        Args:
            length: M, 1..L.

        Returns:
            Items (R, M), oldest first, padded with I, and their gaps (R, M), 0 where times are unknown.

        Raises:
            ValueError: if ``length`` is not in 1..L.
        """
        longest = self.history.shape[1]
        if not 1 <= length <= longest:
            raise ValueError(
                f"a history of {length} items is not available; rows of {self.name!r} have 1..{longest}"
            )
        gaps = np.zeros(self.history.shape, np.float32) if self.gaps is None else self.gaps
        if length == longest:
            return self.history, gaps
        first = np.maximum(self.lengths - length, 0)[:, None]  # (R, 1)
        place = first + np.arange(length)  # (R, M) < L
        return np.take_along_axis(self.history, place, 1), np.take_along_axis(gaps, place, 1)

    def rows_of(self, split: str) -> npt.NDArray[np.int64]:
        """Return the ids (n,) of the rows of one split."""
        return np.flatnonzero(self.split_of == SPLITS.index(split)).astype(np.int64)


def as_rows(dataset: Dataset, length: int = 10, keep_empty: bool = False) -> RowDataset:
    """Convert a sequential or check-in set to rows.

    The train, validation and test events of a user are concatenated in this order, which is their order in
    time; a row belongs to the split of its target. (In sets of sessions each session is in one split.)

    Args:
        dataset: its users' rows must be sorted by time.
        length: L, the longest history; older items are dropped.
        keep_empty: keep the rows with an empty history (the first event of each session). They are 15 to 23 %
            of the rows of DreamRec's files; a model can only rank them by popularity.

    Returns:
        The rows; ``dataset.episodes`` has those with the defaults.

    Raises:
        ValueError: if ``length`` < 1.
        DataError: if the rows of the data set are not sorted by time, or no train row is left.

    Example:
        >>> pairs = Interactions.from_pairs([0, 0, 0], [4, 2, 4], num_users=1, num_items=5)
        >>> none = Interactions.from_pairs([], [], num_users=1, num_items=5)
        >>> rows = as_rows(Dataset("shop", "sequential", pairs, none, none, time_ordered=True), length=3)
        >>> rows.history.tolist(), rows.targets.items.tolist(), rows.empty["train"]
        ([[4, 5, 5], [4, 2, 5]], [2, 4], 1)
    """
    if length < 1:
        raise ValueError(f"length={length} must be at least 1: the number of items of a history")
    if not dataset.time_ordered:
        raise DataError(f"{dataset.name!r} is not sorted by time, so its rows have no next item")
    users, items, splits, times = _sorted_events(dataset)  # (N,) each, by user and time
    place = np.arange(users.size) - np.searchsorted(users, users)  # (N,) 0 is a user's first event
    kept = np.flatnonzero((place > 0) | keep_empty)  # (R,)
    kept = kept[np.argsort(splits[kept], kind="stable")]
    lengths = np.minimum(place[kept], length)  # (R,)
    column = np.arange(length, dtype=np.int32)
    shown = column < lengths[:, None]  # (R, L)
    source = np.where(shown, (kept - lengths).astype(np.int32)[:, None] + column, np.int32(0))  # (R, L)
    history = np.where(shown, items[source], dataset.num_items).astype(np.int32)  # (R, L)
    gaps = None
    if times is not None:
        waited = np.where(place > 0, np.diff(times, prepend=0.0), 0.0).astype(np.float32)  # (N,)
        gaps = np.where(shown, waited[source], np.float32(0.0))  # (R, L)
    counts = np.bincount(splits[place == 0], minlength=len(SPLITS))  # (3,)
    empty = {name: 0 if keep_empty else int(n) for name, n in zip(SPLITS, counts, strict=True)}
    parts = [_targets(items[kept], splits[kept] == s, dataset.num_items) for s in range(len(SPLITS))]
    if not len(parts[0]):
        raise DataError(f"{dataset.name!r} has no train event with an earlier one: nothing to train on")
    return RowDataset(
        dataset.name,
        dataset.task,
        _interactions(lengths, history[shown], dataset.num_items),
        parts[1],
        parts[2],
        time_ordered=True,
        meta=dict(dataset.meta),
        user_ids=None if dataset.user_ids is None else dataset.user_ids[users[kept]],
        item_ids=dataset.item_ids,
        item_features=dataset.item_features,
        targets=parts[0],
        history=history,
        lengths=lengths.astype(np.int64),
        sessions=users[kept],
        split_of=splits[kept],
        empty=empty,
        gaps=gaps,
        origin=dataset.fingerprint,
    )


def next_rows(dataset: Dataset, length: int) -> RowDataset:
    """Return one row for each user: the latest items of the whole history, without a target.

    Args:
        dataset: its users' rows must be sorted by time.
        length: L, the longest history.

    Example:
        >>> pairs = Interactions.from_pairs([0, 0, 0], [4, 2, 3], num_users=2, num_items=5)
        >>> none = Interactions.from_pairs([], [], num_users=2, num_items=5)
        >>> shop = Dataset("shop", "sequential", pairs, none, none, time_ordered=True)
        >>> next_rows(shop, length=2).history.tolist()
        [[2, 3], [5, 5]]
    """
    users, items, _, times = _sorted_events(dataset)  # (N,) each, by user and time
    ends = np.searchsorted(users, np.arange(dataset.num_users), side="right")  # (U,)
    counts = np.diff(ends, prepend=0)  # (U,)
    lengths = np.minimum(counts, length).astype(np.int64)  # (U,)
    column = np.arange(length)
    shown = column < lengths[:, None]  # (U, L)
    source = np.where(shown, (ends - lengths)[:, None] + column, 0)  # (U, L)
    history = np.where(shown, items[source] if items.size else 0, dataset.num_items).astype(np.int32)
    gaps = None
    if times is not None:
        begun = source == (ends - counts)[:, None]  # (U, L) a user's first event
        waited = np.diff(times, prepend=0.0)  # (N,)
        gaps = np.where(shown & ~begun, waited[source], 0.0).astype(np.float32)
    none = _interactions(np.zeros(dataset.num_users, np.int64), np.zeros(0, np.int32), dataset.num_items)
    return RowDataset(
        dataset.name,
        dataset.task,
        _interactions(lengths, history[shown], dataset.num_items),
        none,
        none,
        time_ordered=True,
        meta=dict(dataset.meta),
        user_ids=dataset.user_ids,
        item_ids=dataset.item_ids,
        item_features=dataset.item_features,
        targets=none,
        history=history,
        lengths=lengths,
        sessions=np.arange(dataset.num_users),
        split_of=np.zeros(dataset.num_users, np.int8),
        empty=dict.fromkeys(SPLITS, 0),
        gaps=gaps,
        origin=dataset.fingerprint,
    )


def _sorted_events(
    dataset: Dataset,
) -> tuple[
    npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int8], npt.NDArray[np.float64] | None
]:
    """Return user, item, split and time (or None) (N,) of every event, sorted by user and time."""
    parts = [dataset.split(name) for name in SPLITS]
    users = np.concatenate([part.users for part in parts])
    splits = np.concatenate([np.full(len(part), s, np.int8) for s, part in enumerate(parts)])
    order = np.argsort(users, kind="stable")
    known = [part.timestamps for part in parts if part.timestamps is not None]
    times = np.concatenate(known)[order] if len(known) == len(parts) else None
    return users[order], np.concatenate([part.items for part in parts])[order], splits[order], times


def _targets(items: npt.NDArray[np.int32], chosen: npt.NDArray[np.bool_], num_items: int) -> Interactions:
    """Return the targets ``items`` (R,) of the ``chosen`` (R,) rows, as interactions of all rows."""
    return _interactions(chosen.astype(np.int64), items[chosen], num_items)


def _interactions(
    counts: npt.NDArray[np.int64], items: npt.NDArray[np.int32], num_items: int
) -> Interactions:
    """Return interactions with ``counts`` (R,) items in each row, concatenated in ``items`` (N,)."""
    return Interactions(np.append(0, np.cumsum(counts)).astype(np.int64), items.astype(np.int32), num_items)
