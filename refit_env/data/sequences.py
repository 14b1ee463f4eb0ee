"""Sequential and check-in sets as rows: a short history and the one item that came next.

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
"""Tasks whose episodes are about rows, and how many earlier items a row shows (DreamRec: 10; Diff-POI: 100,
of which the latest half is kept here: TKY has 300,000 rows, and their encoding must not outlast a night)."""


def is_rows(dataset: Dataset) -> bool:
    """Whether episodes of a data set are about rows.

    Those of a sequential set always are (one without order of time is refused); those of a check-in set
    are where its visits stand in order of time. Else its users have sets of places, as in the CF task.
    """
    return dataset.task in LENGTHS and (dataset.time_ordered or dataset.task == "sequential")


@dataclass(frozen=True, eq=False, repr=False)
class RowDataset(Dataset):
    """A sequential or check-in set seen as rows. Everywhere else a row is simply a *user*.

    Each event of a session that has something before it is a row: the items before it (its history, at
    most L, oldest first) and itself (the target). Row ids are dense: train rows first, then validation and
    test rows, each in the order of sessions and positions. What environments, rewards and evaluation ask of
    a data set then has the meaning that it has elsewhere:

    - ``train`` holds what a model sees of each row, its history, whichever split the row is in;
    - ``valid`` and ``test`` hold the target of each row of that split, and of no other row;
    - ``targets`` holds the target of each train row: what may be learnt from and rewarded.

    A row's history never reaches past its target, so what is similar to it is judged by what precedes.
    Nothing is masked when rows are ranked (repeats are events of their own), as in DreamRec's protocol and in
    Diff-POI's with ``--eval_all``: most people's next check-in is at a place where they have been before.

    Attributes:
        targets: (R rows) the targets of the train rows.
        history: (R, L) int32 item ids, oldest first, filled up with I, which is no item.
        lengths: (R,) int64 items of each history.
        sessions: (R,) int64 the source's user that each row comes from.
        split_of: (R,) int8, 0 train, 1 valid, 2 test.
        empty: by split, the rows that were left out because nothing precedes their target.
        gaps: (R, L) float32 seconds between each item of a history and the user's event before it, 0 at a
            user's first event and where nothing is; None where the source has no times.
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
        """Itself: its users are the rows already."""
        return self

    @property
    def served(self) -> Dataset:
        """Not of rows, which know nothing of what came after them.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"the rows of {self.name!r} cannot be served; the data set that they come from can")

    def showing(self, visible: sp.csr_matrix) -> Dataset:
        """Itself: of rows, it is the targets that are hidden, by nature."""
        return self

    def masked(self, split: str) -> sp.csr_matrix:
        """(R, I) nothing: every real item is ranked, those of the history too."""
        none = np.zeros(0, np.int64)
        shape = (self.num_users, self.num_items)
        return sp.csr_matrix((np.zeros(0, np.float32), (none, none)), shape=shape)

    def population(self, split: str) -> int:
        """Rows of the split, those without a history included."""
        return int((self.split_of == SPLITS.index(split)).sum()) + self.empty[split]

    def latest(self, length: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """The last items of each history, for a backbone that reads fewer than the rows show.

        Args:
            length: M, 1..L.

        Returns:
            Items (R, M), oldest first, filled up with I, and their gaps (R, M), 0 where times are unknown.

        Raises:
            ValueError: if the rows do not show so many.
        """
        longest = self.history.shape[1]
        if not 1 <= length <= longest:
            raise ValueError(
                f"a history of {length} items was asked for; rows of {self.name!r} show 1..{longest}"
            )
        gaps = np.zeros(self.history.shape, np.float32) if self.gaps is None else self.gaps
        if length == longest:
            return self.history, gaps
        first = np.maximum(self.lengths - length, 0)[:, None]  # (R, 1)
        place = first + np.arange(length)  # (R, M) within L: an item is left out only where L > M hold one
        return np.take_along_axis(self.history, place, 1), np.take_along_axis(gaps, place, 1)

    def rows_of(self, split: str) -> npt.NDArray[np.int64]:
        """(n,) ids of the rows of one split."""
        return np.flatnonzero(self.split_of == SPLITS.index(split)).astype(np.int64)


def as_rows(dataset: Dataset, length: int = 10, keep_empty: bool = False) -> RowDataset:
    """Turn a sequential or check-in set into rows.

    The events of a user are strung together train, validation, test, which is their order in time; a row
    belongs to the split of its target. (In sets of sessions each session lies in one split.)

    Args:
        dataset: its users' rows must stand in order of time.
        length: L, the most that a history shows; older items are left out.
        keep_empty: keep the rows that nothing precedes (the first event of each session). DreamRec's own
            files hold them, 15 to 23 % of all rows; a model can answer them with popularity alone.

    Returns:
        The rows; ``dataset.episodes`` gives those with the defaults.

    Raises:
        ValueError: if ``length`` < 1.
        DataError: if the rows of the data set do not stand in order of time, or no train row is left.

    Example:
        >>> pairs = Interactions.from_pairs([0, 0, 0], [4, 2, 4], num_users=1, num_items=5)
        >>> none = Interactions.from_pairs([], [], num_users=1, num_items=5)
        >>> rows = as_rows(Dataset("shop", "sequential", pairs, none, none, time_ordered=True), length=3)
        >>> rows.history.tolist(), rows.targets.items.tolist(), rows.empty["train"]
        ([[4, 5, 5], [4, 2, 5]], [2, 4], 1)
    """
    if length < 1:
        raise ValueError(f"length={length} must be at least 1: the items that a history shows")
    if not dataset.time_ordered:
        raise DataError(f"{dataset.name!r} has no order of time, so nothing comes next in it")
    users, items, splits, times = _strung(dataset)  # (N,) each, by user and time
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
        raise DataError(f"{dataset.name!r} has no train event with another before it: nothing to learn from")
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
    """One row for each user: the latest items of the whole history, whose next item is not known.

    Args:
        dataset: its users' rows must stand in order of time.
        length: L, the most that a history shows.

    Example:
        >>> pairs = Interactions.from_pairs([0, 0, 0], [4, 2, 3], num_users=2, num_items=5)
        >>> none = Interactions.from_pairs([], [], num_users=2, num_items=5)
        >>> shop = Dataset("shop", "sequential", pairs, none, none, time_ordered=True)
        >>> next_rows(shop, length=2).history.tolist()
        [[2, 3], [5, 5]]
    """
    users, items, _, times = _strung(dataset)  # (N,) each, by user and time
    ends = np.searchsorted(users, np.arange(dataset.num_users), side="right")  # (U,)
    counts = np.diff(ends, prepend=0)  # (U,)
    lengths = np.minimum(counts, length).astype(np.int64)  # (U,)
    column = np.arange(length)
    shown = column < lengths[:, None]  # (U, L)
    source = np.where(shown, (ends - lengths)[:, None] + column, 0)  # (U, L)
    history = np.where(shown, items[source] if items.size else 0, dataset.num_items).astype(np.int32)
    gaps = None
    if times is not None:
        begun = source == (ends - counts)[:, None]  # (U, L) a user's first event follows none
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


def _strung(
    dataset: Dataset,
) -> tuple[
    npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int8], npt.NDArray[np.float64] | None
]:
    """User, item, split and time (N,) of every event, each user's in order of time; no times if unknown."""
    parts = [dataset.split(name) for name in SPLITS]
    users = np.concatenate([part.users for part in parts])
    splits = np.concatenate([np.full(len(part), s, np.int8) for s, part in enumerate(parts)])
    order = np.argsort(users, kind="stable")
    told = [part.timestamps for part in parts if part.timestamps is not None]
    times = np.concatenate(told)[order] if len(told) == len(parts) else None
    return users[order], np.concatenate([part.items for part in parts])[order], splits[order], times


def _targets(items: npt.NDArray[np.int32], chosen: npt.NDArray[np.bool_], num_items: int) -> Interactions:
    """The targets ``items`` (R,) of the ``chosen`` (R,) rows."""
    return _interactions(chosen.astype(np.int64), items[chosen], num_items)


def _interactions(
    counts: npt.NDArray[np.int64], items: npt.NDArray[np.int32], num_items: int
) -> Interactions:
    """``counts`` (R,) items of each row, one row after the other in ``items`` (N,)."""
    return Interactions(np.append(0, np.cumsum(counts)).astype(np.int64), items.astype(np.int32), num_items)
