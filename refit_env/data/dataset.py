"""A data set in memory, and sequential and check-in sets as rows: a history and the item that came next.

Letters: U users (sessions) of the source, I items, N interactions of one split, B users in a batch, R rows,
L history length, M items that a backbone reads of it.
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
from refit_env.data.interactions import SPLITS, Interactions, joined, spread
from refit_env.data.sequences import LENGTHS, Events, Rows, episodes_are_rows
from refit_env.errors import DataError

NAMES = ("title", "name")
"""Features of the items that hold their names."""


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
        dislikes: items that users rated low, by split (train, valid, test), else None. They are no
            interactions; models do not read them, the reward ``dislikes`` and ``dislikes@K`` do.
        mixed_validation: whether the validation items are a random part of rows that are sorted by time, so
            that nobody knows their places among the train items.
        validation_learned: whether the validation items are train items, and none is left in ``valid``: of
            ``learning_validation``.
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
    dislikes: tuple[Interactions, Interactions, Interactions] | None = None
    mixed_validation: bool = False
    validation_learned: bool = False

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

    @property
    def item_names(self) -> npt.NDArray[Any] | None:
        """(I,) the names of the items, the first of the features in ``NAMES``; None if there is none."""
        features = self.item_features or {}
        return next((features[column] for column in NAMES if column in features), None)

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits, the sha256 of the content; see ``refit_env.data.fingerprint``.

        Derived data sets (``episodes``, ``showing``, ``learning_validation_of``) have the fingerprint of the
        data set from which they were derived, so that their models belong to that data set.
        """
        if self.origin is not None:
            return self.origin
        splits = [self.split(name) for name in SPLITS]
        own = self.social, self.item_features, self.dislikes
        return fingerprint(self.task, splits, self.time_ordered, *own)

    def split(self, name: str) -> Interactions:
        """Return the split called ``"train"``, ``"valid"`` or ``"test"``."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]

    def disliked(self, split: str) -> sp.csr_matrix | None:
        """Return the items (U, I) that users rated low in a split, or None without dislikes."""
        return None if self.dislikes is None else self.dislikes[SPLITS.index(split)].csr

    @cached_property
    def episodes(self) -> Dataset:
        """The data set in which one *user* is one episode.

        This data set itself, unless one user has many episodes: a sequential set, and a check-in set that is
        sorted by time, becomes rows, each a history and the item that came next (``RowDataset``).
        """
        return as_rows(self, LENGTHS[self.task]) if self.has_rows else self

    @property
    def has_rows(self) -> bool:
        """Whether the episodes are rows.

        This is true for a sequential set, and for a check-in set that is sorted by time. In a check-in set
        that is not sorted, a user has a set of places, as in the CF task.
        """
        return episodes_are_rows(self.task, self.time_ordered)

    @property
    def has_friends(self) -> bool:
        """Whether there is at least one social edge."""
        return self.social is not None and len(self.social) > 0

    @property
    def unit(self) -> str:
        """What the mean of a metric is over: ``"rows"`` where the episodes are rows, else ``"users"``."""
        return "rows" if self.has_rows else "users"

    def groups_of(self, users: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return (n,) whose episodes are those of ``users`` (n,): of rows, the source's user or session.

        Rows with one number are not independent of each other. Each user of a set is alone.
        """
        return self.episodes.groups_of(users) if self.has_rows else np.asarray(users, np.int64)

    @cached_property
    def served(self) -> Dataset:
        """The data set for a deployed model: all interactions are train items, none is held out.

        Where episodes are rows, it has one row for each user of the source: the latest items of the whole
        history, without a target.
        """
        if self.has_rows:
            return next_rows(self, LENGTHS[self.task])
        known = joined(self._with_validation(self.valid), self.test)
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

    def part(self, first: int, last: int) -> Dataset:
        """Return the data set of the users ``first`` .. ``last`` - 1, renumbered from 0.

        The arrays of the interactions are views of this data set's, so that a range of a mapped data set
        (``refit_env.data.mapped``) needs the memory of its own users.

        Raises:
            ValueError: if the range is empty or not in 0..U, or the data set has rows or social edges.

        Example:
            >>> pairs = Interactions.from_pairs([0, 1, 2], [2, 0, 1], num_users=3, num_items=3)
            >>> shop = Dataset("shop", "cf", pairs, pairs, pairs, time_ordered=True)
            >>> part = shop.part(1, 3)
            >>> part.num_users, part.train.of(0), part.fingerprint == shop.fingerprint
            (2, array([0], dtype=int32), True)
        """
        if not 0 <= first < last <= self.num_users:
            raise ValueError(f"users {first}..{last - 1} must be a range in 0..{self.num_users - 1}")
        if self.has_rows or self.social is not None:
            raise ValueError(
                f"{self.name!r} cannot be divided by users: only sets of items, without social edges"
            )
        train, valid, test = (self.split(name).part(first, last) for name in SPLITS)
        low = self.dislikes
        if low is not None:
            low = low[0].part(first, last), low[1].part(first, last), low[2].part(first, last)
        ids = None if self.user_ids is None else self.user_ids[first:last]
        return replace(
            self,
            train=train,
            valid=valid,
            test=test,
            user_ids=ids,
            dislikes=low,
            origin=self.fingerprint,
        )

    def learning_validation_of(self, users: npt.NDArray[np.int64]) -> Dataset:
        """Return this data set with the validation items of ``users`` (n,) among their train items.

        A supervised model that is trained on it has the information that a reward on those items contains.
        The items are last in their row, unless times say otherwise; with ``mixed_validation`` they are
        at even distances among the train items.

        Example:
            >>> train = Interactions.from_pairs([0, 1], [2, 1], num_users=2, num_items=3)
            >>> valid = Interactions.from_pairs([0, 1], [0, 0], num_users=2, num_items=3)
            >>> shop = Dataset("shop", "cf", train, valid, valid, time_ordered=True)
            >>> more = shop.learning_validation_of(np.array([0]))
            >>> more.train.of(0), more.valid.of(0), more.valid.of(1)
            (array([2, 0], dtype=int32), array([], dtype=int32), array([0], dtype=int32))
        """
        moved = np.isin(self.valid.users, users)  # (N,)
        more = self._with_validation(self.valid.select(moved))
        left = self.valid.select(~moved)
        learned = self.validation_learned or (len(self.valid) > 0 and not len(left))
        return replace(self, train=more, valid=left, origin=self.fingerprint, validation_learned=learned)

    def learning_validation(self) -> Dataset:
        """Return this data set with all validation items among the train items.

        What is fitted to it is measured on test, and nothing is left to choose by. See
        ``learning_validation_of``.

        Example:
            >>> from refit_env.data import load_dataset
            >>> data = load_dataset("synthetic")
            >>> whole = data.learning_validation()
            >>> len(whole.train) == len(data.train) + len(data.valid), len(whole.valid)
            (True, 0)
        """
        return self.learning_validation_of(np.arange(self.num_users))

    def _with_validation(self, valid: Interactions) -> Interactions:
        """Return the train items and ``valid`` in one row a user, in order as far as it is known."""
        join = spread if self.mixed_validation and self.train.timestamps is None else joined
        return join(self.train, valid).by_time()


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

    def groups_of(self, users: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return (n,) the source's user or session of each of the rows ``users`` (n,)."""
        return self.sessions[np.asarray(users, np.int64)]

    @cached_property
    def users_by_id(self) -> IdMap:
        """The source's ids of the users of the rows."""
        return IdMap("user", self.num_users, self.user_ids, self.name, rows=True)

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

    @classmethod
    def of(cls, source: Dataset, rows: Rows) -> RowDataset:
        """Return the data set of the rows of another one, the source."""
        train, valid, test = rows.targets
        return cls(
            source.name,
            source.task,
            train=rows.histories.as_interactions(),
            valid=valid,
            test=test,
            time_ordered=True,
            meta=dict(source.meta),
            user_ids=None if source.user_ids is None else source.user_ids[rows.sessions],
            item_ids=source.item_ids,
            item_features=source.item_features,
            origin=source.fingerprint,
            validation_learned=source.validation_learned,
            targets=train,
            history=rows.histories.items,
            lengths=rows.histories.lengths,
            gaps=rows.histories.gaps,
            sessions=rows.sessions,
            split_of=rows.splits,
            empty=rows.empty,
        )


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
    events = Events.of([dataset.split(name) for name in SPLITS])
    rows = Rows.of_events(events, length, dataset.num_items, keep_empty)
    if not len(rows.targets[0]):
        raise DataError(
            f"{dataset.name!r} has no train event with an earlier one: nothing to train on; each row needs a "
            "user or session with at least 2 train events"
        )
    return RowDataset.of(dataset, rows)


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
    events = Events.of([dataset.split(name) for name in SPLITS])
    return RowDataset.of(dataset, Rows.latest(events, length, dataset.num_items, dataset.num_users))
