"""Rows: the events of each user in order of time, the items before an event, and the item that comes next.

Letters: R rows, L history length, U users of the source, I items, N events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from refit_env.data.interactions import SPLITS, Interactions

LENGTHS: dict[str, int] = {"sequential": 10, "poi": 50}
"""Tasks whose episodes are rows -> history length L. DreamRec has 10. Diff-POI has 100; here it is 50,
because encoding the 300,000 rows of TKY would take too long."""


def episodes_are_rows(task: str, time_ordered: bool) -> bool:
    """Return whether the episodes of a data set are rows (``Dataset.has_rows``).

    Args:
        task: of the data set.
        time_ordered: whether each user's interactions are sorted by time.
    """
    return task in LENGTHS and (time_ordered or task == "sequential")


@dataclass(frozen=True, eq=False)
class Events:
    """All events of a data set, sorted by user and time.

    Attributes:
        users: (N,) int64.
        items: (N,) int32.
        splits: (N,) int8, 0 train, 1 valid, 2 test.
        times: (N,) float64 seconds, or None where the source has none.
    """

    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]
    splits: npt.NDArray[np.int8]
    times: npt.NDArray[np.float64] | None

    @classmethod
    def of(cls, splits: Sequence[Interactions]) -> Events:
        """Concatenate the train, validation and test events of each user, which is their order in time."""
        users = np.concatenate([part.users for part in splits])
        numbers = np.concatenate([np.full(len(part), s, np.int8) for s, part in enumerate(splits)])
        order = np.argsort(users, kind="stable")
        known = [part.timestamps for part in splits if part.timestamps is not None]
        times = np.concatenate(known)[order] if len(known) == len(splits) else None
        items = np.concatenate([part.items for part in splits])
        return cls(users[order], items[order], numbers[order], times)

    @cached_property
    def place(self) -> npt.NDArray[np.int64]:
        """(N,) how many events of its user precede each event."""
        return np.arange(self.users.size) - np.searchsorted(self.users, self.users)


@dataclass(frozen=True, eq=False)
class Histories:
    """The latest items before R positions in the events.

    Attributes:
        items: (R, L) int32, oldest first, padded with I.
        lengths: (R,) int64 number of items of each.
        gaps: (R, L) float32 seconds between each item and the user's event before it, 0 at a user's first
            event and at padding; None where the source has no times.
        num_items: I.
    """

    items: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int64]
    gaps: npt.NDArray[np.float32] | None
    num_items: int

    @classmethod
    def before(
        cls,
        events: Events,
        ends: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
        length: int,
        num_items: int,
    ) -> Histories:
        """Read the histories.

        Args:
            events: of all users.
            ends: (R,) positions in the events; a history ends before its position.
            counts: (R,) events of the same user before it.
            length: L, the longest history.
            num_items: I, the padding.
        """
        lengths = np.minimum(counts, length)  # (R,)
        column = np.arange(length, dtype=np.int32)
        padding = np.int32(events.items.size)
        source = (ends - lengths).astype(np.int32)[:, None] + column  # (R, L) positions in the events
        source = np.where(column < lengths[:, None], source, padding)
        gaps = None
        if events.times is not None:
            waited = np.where(events.place > 0, np.diff(events.times, prepend=0.0), 0.0)  # (N,)
            gaps = np.append(waited, 0.0).astype(np.float32)[source]  # (R, L)
        items = np.append(events.items, np.int32(num_items))[source]  # (R, L)
        return cls(items, lengths.astype(np.int64), gaps, num_items)

    def as_interactions(self) -> Interactions:
        """The histories as the interactions of R users."""
        shown = self.items[np.arange(self.items.shape[1]) < self.lengths[:, None]]
        return ragged(self.lengths, shown, self.num_items)


@dataclass(frozen=True, eq=False)
class Rows:
    """Histories with the item that comes next, the target: train rows first, then validation and test rows.

    Attributes:
        histories: of the R rows.
        targets: by split, the targets of its rows; the rows of other splits have none.
        sessions: (R,) int64 the user of each row.
        splits: (R,) int8, 0 train, 1 valid, 2 test.
        empty: by split, the number of events that are no target of a row, because no event is before them.
    """

    histories: Histories
    targets: tuple[Interactions, Interactions, Interactions]
    sessions: npt.NDArray[np.int64]
    splits: npt.NDArray[np.int8]
    empty: Mapping[str, int]

    @classmethod
    def of_events(cls, events: Events, length: int, num_items: int, keep_empty: bool) -> Rows:
        """Make a row of each event that has an earlier one; of the others too, if ``keep_empty``."""
        kept = np.flatnonzero((events.place > 0) | keep_empty)  # (R,) positions of the targets
        kept = kept[np.argsort(events.splits[kept], kind="stable")]
        items, splits = events.items[kept], events.splits[kept]  # (R,) each
        train, valid, test = (
            ragged((splits == s).astype(np.int64), items[splits == s], num_items) for s in range(len(SPLITS))
        )
        first = np.bincount(events.splits[events.place == 0], minlength=len(SPLITS))  # (3,)
        return cls(
            Histories.before(events, kept, events.place[kept], length, num_items),
            (train, valid, test),
            events.users[kept],
            splits,
            {name: 0 if keep_empty else int(n) for name, n in zip(SPLITS, first, strict=True)},
        )

    @classmethod
    def latest(cls, events: Events, length: int, num_items: int, num_users: int) -> Rows:
        """Make one row of each user: the latest items of all events, without a target."""
        ends = np.searchsorted(events.users, np.arange(num_users), side="right")  # (U,)
        none = ragged(np.zeros(num_users, np.int64), np.zeros(0, np.int32), num_items)
        return cls(
            Histories.before(events, ends, np.diff(ends, prepend=0), length, num_items),
            (none, none, none),
            np.arange(num_users),
            np.zeros(num_users, np.int8),
            dict.fromkeys(SPLITS, 0),
        )


def ragged(counts: npt.NDArray[np.int64], items: npt.NDArray[np.int32], num_items: int) -> Interactions:
    """Return interactions with ``counts`` (R,) items in each row, concatenated in ``items`` (N,)."""
    return Interactions(np.append(0, np.cumsum(counts)).astype(np.int64), items.astype(np.int32), num_items)
