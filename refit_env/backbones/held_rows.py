"""The train rows that a closed form may be fitted without, so that something else can learn on them.

Letters: R rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from refit_env.data.dataset import RowDataset
from refit_env.data.interactions import SPLITS
from refit_env.utils.draws import stream

APART = -1
"""``RowDataset.split_of`` of a row that belongs to no split."""


def held_rows(data: RowDataset, share: float) -> npt.NDArray[np.bool_]:
    """Return which rows (R,) are held apart: train rows that differ from the others as test rows do.

    In check-in sets, test rows are later rows of the same users; there it is the latest ``share`` of each
    user's train rows. In sets of sessions, test rows are of other sessions; there it is all train rows of a
    ``share`` of the sessions, of which as many are long, and as many short, as of the others: one session of
    thousands of rows is all that a data set knows of some histories. The draw is the same at each call.

    Args:
        data: its train rows are divided.
        share: of the rows or sessions, 0 to 1.

    Example:
        >>> from refit_env.data import synthesize_checkins
        >>> rows = synthesize_checkins(seed=0).episodes
        >>> f"{held_rows(rows, 0.25).sum() / len(rows.rows_of('train')):.2f}"
        '0.23'
    """
    train = data.split_of == SPLITS.index("train")  # (R,)
    train &= data.targets.counts > 0  # the rows of served data have no target
    sessions = data.sessions
    out = np.zeros(train.size, np.bool_)
    if data.task == "sequential":
        out[train] = _of_all_lengths(np.bincount(sessions[train]), share)[sessions[train]]
        return out
    rows = np.flatnonzero(train)  # sorted by session and position
    first = np.searchsorted(sessions[rows], sessions[rows])  # (n,) where each row's session begins
    count = np.searchsorted(sessions[rows], sessions[rows], side="right") - first
    out[rows] = np.arange(rows.size) - first >= np.ceil((1.0 - share) * count)
    return out


def _of_all_lengths(counts: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.bool_]:
    """Return which sessions (S,) are drawn: from the longest to the shortest, at equal distances.

    Args:
        counts: (S,) rows of each session; one without rows is not drawn.
        share: of the sessions, 0 to 1.
    """
    order = stream("held").permutation(np.flatnonzero(counts))  # (n,)
    order = order[np.argsort(-counts[order], kind="stable")]  # equal lengths stay in random order
    before = np.floor(np.arange(order.size + 1) * share + 0.5)  # (n + 1,) drawn before each place
    out = np.zeros(counts.size, np.bool_)
    out[order] = np.diff(before) > 0
    return out


def without_rows(data: RowDataset, held: npt.NDArray[np.bool_]) -> RowDataset:
    """Return ``data`` with the train rows that are not ``held`` (R,); all rows keep their numbers."""
    return replace(
        data,
        targets=data.targets.select(~held[data.targets.users]),
        split_of=np.where(held, APART, data.split_of).astype(data.split_of.dtype),
    )
