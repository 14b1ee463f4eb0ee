"""What a reward counts as relevant, what the model may see, and what no list may hold.

======================  ===================  ==============================  =========================
mode                    u_T shows            relevant                        kept out of the list
======================  ===================  ==============================  =========================
``train``               the train items      the train items                 nothing
``holdout``             a random part        the rest of the train items     the part that is shown
``recent``              the earlier part     the latest part                 the part that is shown
``validation``          the train items      the validation items            the train items
``none``                the train items      nothing                         the train items
======================  ===================  ==============================  =========================

Test items are in no cell of the table. Under ``validation`` only a part of the users are rewarded; the others
(``selection_share``, a half) start no episode, and no matrix holds a validation item of theirs, so that those
can select a model. Who they are depends on their ids alone. ``none`` is the state that recommendations are
made in; it is for rewards that score items without relevance labels (``ease``, ``gf_cf``, ``recommender``,
``novelty``, one's own function ...).

A sequential set's users are its rows (``Dataset.episodes``), each a history and the item that came next; the
next item is hidden by nature, so two modes are left and nothing is kept out of the lists:

======================  ================================  =====================================
``train``               the histories of the train rows   the train rows' targets
``validation``          those of the validation rows      the validation rows' targets
======================  ================================  =====================================

Under ``validation`` the rows of one session are rewarded all or select all: a later row shows what an earlier
one is to predict.

Letters: U users, I items, n_u train items of a user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Annotated

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from msgspec import Meta

from refit_env.data.dataset import Dataset, RowDataset
from refit_env.data.interactions import SPLITS, Interactions
from refit_env.data.rows import without
from refit_env.errors import unknown_name
from refit_env.settings import PartialShare, Seed, check_setting

MODES = ("holdout", "none", "recent", "train", "validation")
"""Names for ``make_relevance``."""
Fraction = Annotated[float, Meta(gt=0, lt=1, description="the hidden share")]
"""A part of a whole that is something and leaves something."""


@dataclass(frozen=True, eq=False)
class Relevance:
    """One row of the table above, for one data set.

    Attributes:
        mode: its name.
        visible: (U, I) what u_T shows.
        relevant: (U, I) what counts as a hit.
        hidden: (U, I) what no list may hold, or None.
        users: (n,) int64, users with something visible and (but for ``none``) something relevant: those that
            episodes are about.
        fraction: the hidden share it was made with.
        seed: the seed it was made with.
        groups: (U,) users of one group are no neighbours of each other: the rows of one session. None:
            everyone is a group.
        selection_share: the share of users for selection it was made with.
        selecting: (m,) int64, users of whom no matrix holds a validation item, so that those can select a
            model. None: it holds nobody's, all can.
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

    def sources(self) -> npt.NDArray[np.int64]:
        """The data set's users that ``users`` are of: themselves, or the sessions of the rows."""
        return self.users if self.groups is None else np.unique(self.groups[self.users])


def make_relevance(
    mode: str, dataset: Dataset, fraction: float = 0.2, seed: int = 0, selection_share: float = 0.5
) -> Relevance:
    """Decide what is shown, what counts and what is kept out.

    Args:
        mode: ``"train"``, ``"holdout"``, ``"recent"``, ``"validation"`` or ``"none"``.
        dataset: its train and (for ``"validation"``) valid splits are used.
        fraction: share of a user's train items that ``holdout`` and ``recent`` hide: round(fraction * n_u),
            at least 1 and at most n_u - 1; users with a single item are left out.
        seed: of the part that ``holdout`` hides.
        selection_share: of ``validation``, how many users (of a sequential set, sessions) select instead of
            being rewarded, about; with 0 all are rewarded, and no validation item is left to select by.

    Raises:
        ValueError: for an unknown mode, a fraction outside (0, 1), a share outside [0, 1), ``recent`` on a
            data set without order of time, one but ``train`` and ``validation`` on a sequential one, or a
            split that leaves no user.
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
        apart = _selecting(np.arange(dataset.num_users), selection_share)  # (U,)
        relevant = without(dataset.valid.select(~apart[dataset.valid.users]).csr, train.csr)
        visible, hidden, selecting = train.csr, train.csr, np.flatnonzero(apart)
    else:
        kept = _visible_part(mode, dataset, fraction, seed)
        visible = train.select(kept).csr
        relevant = without(
            train.select(~kept).csr, visible
        )  # a shown item that is repeated can be in no list
        hidden = visible
    both = (np.diff(visible.indptr) > 0) & ((np.diff(relevant.indptr) > 0) | (mode == "none"))  # (U,)
    users = np.flatnonzero(both).astype(np.int64)
    if not users.size:
        raise ValueError(
            f"relevance {mode!r} leaves no user of {dataset.name!r} with both visible and relevant items"
            + _to_select(selecting)
        )
    return Relevance(mode, visible, relevant, hidden, users, fraction, seed, None, selection_share, selecting)


def _selecting(ids: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.bool_]:
    """(n,) whether the users ``ids`` (n,) select: drawn for each id by itself, whatever the data hold."""
    chance = np.random.default_rng(0).random(int(ids.max(initial=0)) + 1)  # the same for an id in any number
    return np.asarray(chance[ids] < share)


def _to_select(selecting: npt.NDArray[np.int64] | None) -> str:
    """What an error adds where some are kept from being rewarded."""
    count = 0 if selecting is None else selecting.size
    return f" ({count} are kept to select a model)" if count else ""


def _of_rows(mode: str, rows: RowDataset, fraction: float, seed: int, share: float) -> Relevance:
    """The second table; only rewarded rows show anything, so they alone are each other's neighbours."""
    if mode not in ("train", "validation"):
        raise ValueError(
            f"relevance {mode!r} is for sets of items, but {rows.name!r} is sequential: an episode's truth "
            "is the item that came next. Use 'train', or 'validation' (and select on other rows)"
        )
    relevant, selecting = rows.targets, None
    paid = rows.split_of == SPLITS.index("train" if mode == "train" else "valid")  # (R,)
    if mode == "validation":
        apart = _selecting(rows.sessions, share)  # (R,)
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
    """(N,) whether each train interaction is shown."""
    train = dataset.train
    if mode == "recent" and not dataset.time_ordered:
        raise ValueError(
            f"relevance 'recent' needs rows in order of time, which {dataset.name!r} does not have; "
            "use relevance='holdout', which hides a random part"
        )
    place = _place_in_row(train)  # (N,) 0 is the oldest
    if mode == "holdout":
        place = _shuffled(train, np.random.default_rng(seed))
    counts = train.counts
    hide = np.minimum(np.maximum(1, np.round(fraction * counts)), np.maximum(counts - 1, 0))  # (U,)
    return np.asarray(place < (counts - hide)[train.users])


def _place_in_row(rows: Interactions) -> npt.NDArray[np.int64]:
    """(N,) each interaction's place in its user's row."""
    return np.arange(len(rows), dtype=np.int64) - rows.indptr[rows.users]


def _shuffled(rows: Interactions, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """(N,) a random place in its user's row for each interaction, every permutation of a row alike."""
    order = np.lexsort((rng.random(len(rows)), rows.users))
    place = np.empty(len(rows), dtype=np.int64)
    place[order] = _place_in_row(rows)
    return place


def common(parts: Sequence[npt.NDArray[np.int64] | None]) -> npt.NDArray[np.int64] | None:
    """The users who are in each of several ``selecting``; None stands for everyone.

    Example:
        >>> common([None, np.array([1, 2, 3]), np.array([2, 3])]), common([None])
        (array([2, 3]), None)
    """
    found = [part for part in parts if part is not None]
    return reduce(np.intersect1d, found) if found else None
