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

Test items are in no cell of the table. After ``validation``, models must be selected on other users. ``none``
is the state that recommendations are made in; it is for rewards that have an opinion of their own on a list
(``ease``, ``gf_cf``, ``recommender``, ``novelty``, one's own function ...).

A sequential set's users are its rows (``Dataset.episodes``), each a history and the item that came next; the
next item is hidden by nature, so two modes are left and nothing is kept out of the lists:

======================  ================================  =====================================
``train``               the histories of the train rows   the train rows' targets
``validation``          those of the validation rows      the validation rows' targets
======================  ================================  =====================================

Letters: U users, I items, n_u train items of a user.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from refit_env.data.dataset import SPLITS, Dataset, Interactions
from refit_env.data.rows import without
from refit_env.data.sequences import RowDataset
from refit_env.errors import unknown_name

MODES = ("holdout", "none", "recent", "train", "validation")
"""Names for ``make_relevance``."""


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
    """

    mode: str
    visible: sp.csr_matrix
    relevant: sp.csr_matrix
    hidden: sp.csr_matrix | None
    users: npt.NDArray[np.int64]
    fraction: float = 0.2
    seed: int = 0
    groups: npt.NDArray[np.int64] | None = None


def make_relevance(mode: str, dataset: Dataset, fraction: float = 0.2, seed: int = 0) -> Relevance:
    """Decide what is shown, what counts and what is kept out.

    Args:
        mode: ``"train"``, ``"holdout"``, ``"recent"``, ``"validation"`` or ``"none"``.
        dataset: its train and (for ``"validation"``) valid splits are used.
        fraction: share of a user's train items that ``holdout`` and ``recent`` hide: round(fraction * n_u),
            at least 1 and at most n_u - 1; users with a single item are left out.
        seed: of the part that ``holdout`` hides.

    Raises:
        ValueError: for an unknown mode, a fraction outside (0, 1), ``recent`` on a data set without order
            of time, one but ``train`` and ``validation`` on a sequential one, or a split that leaves no
            user.
    """
    if mode not in MODES:
        raise unknown_name("relevance", mode, MODES)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction} must lie strictly between 0 and 1: the hidden share")
    dataset = dataset.episodes
    if isinstance(dataset, RowDataset):
        return _of_rows(mode, dataset, fraction, seed)
    train = dataset.train
    if mode == "train":
        visible, relevant, hidden = train.csr, train.csr, None
    elif mode == "none":
        nothing = sp.csr_matrix(train.csr.shape, dtype=train.csr.dtype)
        visible, relevant, hidden = train.csr, nothing, train.csr
    elif mode == "validation":
        visible, relevant, hidden = train.csr, without(dataset.valid.csr, train.csr), train.csr
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
        )
    return Relevance(mode, visible, relevant, hidden, users, fraction, seed)


def _of_rows(mode: str, rows: RowDataset, fraction: float, seed: int) -> Relevance:
    """The second table; only one split's rows show anything, so they alone are each other's neighbours."""
    if mode not in ("train", "validation"):
        raise ValueError(
            f"relevance {mode!r} is for sets of items, but {rows.name!r} is sequential: an episode's truth "
            "is the item that came next. Use 'train', or 'validation' (and select on other rows)"
        )
    split = "train" if mode == "train" else "valid"
    shown = np.repeat(rows.split_of == SPLITS.index(split), rows.lengths)  # (N,)
    relevant = rows.targets if mode == "train" else rows.valid
    users = rows.rows_of(split)
    if not users.size:
        raise ValueError(f"relevance {mode!r} leaves no row of {rows.name!r} with a history and a target")
    visible = rows.train.select(shown).csr
    return Relevance(mode, visible, relevant.csr, None, users, fraction, seed, rows.sessions)


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
