"""The items that a reward counts as relevant, that the model sees, and that are masked from lists.

======================  ===================  ==============================  =========================
mode                    u_T shows            relevant                        masked from the list
======================  ===================  ==============================  =========================
``train``               the train items      the train items                 nothing
``holdout``             a random part        the rest of the train items     the part that is shown
``recent``              the earlier part     the latest part                 the part that is shown
``validation``          the train items      the validation items            the train items
``none``                the train items      nothing                         the train items
======================  ===================  ==============================  =========================

Test items are in no cell of the table. Under ``validation`` only a part of the users is rewarded; the others
(``selection_share``, a half) start no episode, and no matrix holds their validation items, so that these can
select a model. The two parts depend on the users' ids only. ``none`` is the state of a deployed model; it is
for rewards that score items without relevance labels (``ease``, ``gf_cf``, ``recommender``, ``novelty``, a
user's own function ...).

The users of a sequential set are its rows (``Dataset.episodes``), each a history and the item that came next.
The next item is always hidden, so there are two modes, and no item is masked:

======================  ================================  =====================================
``train``               the histories of the train rows   the train rows' targets
``validation``          those of the validation rows      the validation rows' targets
======================  ================================  =====================================

Under ``validation`` either all rows of a session are rewarded or all select, because the history of a later
row holds the target of an earlier one.

Letters: U users, I items, n_u train items of a user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Annotated

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from msgspec import Meta

from refit_env.data.dataset import Dataset, RowDataset
from refit_env.data.interactions import SPLITS
from refit_env.data.rows import without
from refit_env.errors import unknown_name
from refit_env.settings import PartialShare, Seed, check_setting
from refit_env.utils.draws import drawn

MODES = ("holdout", "none", "recent", "train", "validation")
"""Names for ``make_relevance``."""
Fraction = Annotated[float, Meta(gt=0, lt=1, description="the hidden share")]
"""A part of a whole that is something and leaves something."""


@dataclass(frozen=True, eq=False)
class Relevance:
    """One row of the table above for one data set.

    Attributes:
        mode: its name.
        visible: (U, I) the items that u_T shows.
        relevant: (U, I) the items that count as hits.
        hidden: (U, I) the items that are masked from lists, or None.
        users: (n,) int64, users with a visible and (except under ``none``) a relevant item: the users of
            episodes.
        fraction: the hidden share.
        seed: the seed of the hidden part.
        groups: (U,) the group of each user; users of one group (the rows of one session) are not each other's
            neighbours. None: each user is a group.
        selection_share: the share of users for selection.
        selecting: (m,) int64, users whose validation items are in no matrix, so that these can select a
            model. None: the matrices hold no validation items, all users can select.
    """

    mode: str
    visible: sp.csr_matrix
    relevant: sp.csr_matrix
    hidden: sp.csr_matrix | None
    users: npt.NDArray[np.int64]
    fraction: float = 0.2
    seed: int = 0
    groups: npt.NDArray[np.int64] | None = None
    selection_share: float = 0.5
    selecting: npt.NDArray[np.int64] | None = None

    @cached_property
    def starts(self) -> npt.NDArray[np.bool_]:
        """(U,) whether each user is one of ``users``."""
        out = np.zeros(self.visible.shape[0], dtype=np.bool_)
        out[self.users] = True
        return out

    def of_users(self, allowed: npt.NDArray[np.bool_] | None) -> Relevance:
        """Return the relevance with the ``allowed`` (U,) of its ``users`` alone; itself for None.

        Raises:
            ValueError: if none is left.
        """
        if allowed is None:
            return self
        users = self.users[allowed[self.users]]
        if not users.size:
            raise ValueError(
                f"relevance {self.mode!r}: the backbone trains on none of its {self.users.size} users or rows"
            )
        return replace(self, users=users)

    def sources(self) -> npt.NDArray[np.int64]:
        """Return the source's users of ``users``: the same, or the sessions of the rows."""
        return self.users if self.groups is None else np.unique(self.groups[self.users])


def make_relevance(
    mode: str, dataset: Dataset, fraction: float = 0.2, seed: int = 0, selection_share: float = 0.5
) -> Relevance:
    """Make the relevance of a data set.

    Args:
        mode: ``"train"``, ``"holdout"``, ``"recent"``, ``"validation"`` or ``"none"``.
        dataset: the source of the items; its train split and, for ``"validation"``, its valid split are read.
        fraction: share of a user's train items that ``holdout`` and ``recent`` hide: round(fraction * n_u),
            at least 1 and at most n_u - 1; users with a single item are excluded.
        seed: seed of the part that ``holdout`` hides.
        selection_share: for ``validation``, the approximate share of users (in a sequential set, sessions)
            for selection; with 0 all users are rewarded, and no validation item can select.

    Raises:
        ValueError: for an unknown mode, a fraction outside (0, 1), a share outside [0, 1), ``recent`` on a
            data set that is not sorted by time, a mode other than ``train`` and ``validation`` for a
            sequential set, or if no user is left.
    """
    if mode not in MODES:
        raise unknown_name("relevance", mode, MODES)
    check_setting("fraction", fraction, Fraction)
    check_setting("seed", seed, Seed)
    check_setting("selection_share", selection_share, PartialShare)
    dataset = dataset.episodes
    if isinstance(dataset, RowDataset):
        return _of_rows(mode, dataset, fraction, seed, selection_share)
    train, selecting = dataset.train, None
    if mode == "train":
        visible, relevant, hidden = train.csr, train.csr, None
    elif mode == "none":
        nothing = sp.csr_matrix(train.csr.shape, dtype=train.csr.dtype)
        visible, relevant, hidden = train.csr, nothing, train.csr
    elif mode == "validation":
        apart = drawn(np.arange(dataset.num_users), selection_share, "validation")  # (U,)
        relevant = without(dataset.valid.select(~apart[dataset.valid.users]).csr, train.csr)
        visible, hidden, selecting = train.csr, train.csr, np.flatnonzero(apart)
    else:
        kept = _visible_part(mode, dataset, fraction, seed)
        visible = train.select(kept).csr
        relevant = without(train.select(~kept).csr, visible)  # a repeated item that is visible is masked
        hidden = visible
    both = (np.diff(visible.indptr) > 0) & ((np.diff(relevant.indptr) > 0) | (mode == "none"))  # (U,)
    users = np.flatnonzero(both).astype(np.int64)
    if not users.size:
        raise ValueError(
            f"relevance {mode!r} leaves no user of {dataset.name!r} with both visible and relevant items"
            + _to_select(selecting)
        )
    return Relevance(mode, visible, relevant, hidden, users, fraction, seed, None, selection_share, selecting)


def _to_select(selecting: npt.NDArray[np.int64] | None) -> str:
    """Return the end of an error message, for users that only select."""
    count = 0 if selecting is None else selecting.size
    return f" ({count} are reserved to select a model)" if count else ""


def _of_rows(mode: str, rows: RowDataset, fraction: float, seed: int, share: float) -> Relevance:
    """Return the second table; only rewarded rows have visible items, so only they are neighbours."""
    if mode not in ("train", "validation"):
        raise ValueError(
            f"relevance {mode!r} is for sets of items, but {rows.name!r} is sequential: the relevant item of "
            "an episode is the one that came next. Use 'train', or 'validation' (and select on other rows)"
        )
    relevant, selecting = rows.targets, None
    paid = rows.split_of == SPLITS.index("train" if mode == "train" else "valid")  # (R,)
    if mode == "validation":
        apart = drawn(rows.sessions, share, "validation")  # (R,)
        selecting, paid = np.flatnonzero(apart), paid & ~apart
        relevant = rows.valid.select(~apart[rows.valid.users])
    users = np.flatnonzero(paid).astype(np.int64)
    if not users.size:
        raise ValueError(
            f"relevance {mode!r} leaves no row of {rows.name!r} with a history and a target"
            + _to_select(selecting)
        )
    visible = rows.train.select(np.repeat(paid, rows.lengths)).csr
    return Relevance(
        mode, visible, relevant.csr, None, users, fraction, seed, rows.sessions, share, selecting
    )


def _visible_part(mode: str, dataset: Dataset, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """(N,) whether each train interaction is visible."""
    train = dataset.train
    if mode == "recent" and not dataset.time_ordered:
        raise ValueError(
            f"relevance 'recent' needs rows that are sorted by time, and those of {dataset.name!r} are not; "
            "use relevance='holdout', which hides a random part"
        )
    place = train.places  # (N,) 0 is the oldest
    if mode == "holdout":
        place = train.shuffled_places(np.random.default_rng(seed))
    counts = train.counts
    hide = np.minimum(np.maximum(1, np.round(fraction * counts)), np.maximum(counts - 1, 0))  # (U,)
    return np.asarray(place < (counts - hide)[train.users])


def common(parts: Sequence[npt.NDArray[np.int64] | None]) -> npt.NDArray[np.int64] | None:
    """Return the users in all of several ``selecting``; None means all users.

    Example:
        >>> common([None, np.array([1, 2, 3]), np.array([2, 3])]), common([None])
        (array([2, 3]), None)
    """
    found = [part for part in parts if part is not None]
    return reduce(np.intersect1d, found) if found else None
