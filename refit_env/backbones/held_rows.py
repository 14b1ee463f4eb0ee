"""The train rows that a closed form may be fitted without, so that something else can learn on them.

Letters: R rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from refit_env.data.dataset import RowDataset
from refit_env.data.interactions import SPLITS

APART = -1
"""``RowDataset.split_of`` of a row that belongs to no split."""


def held_rows(data: RowDataset, share: float) -> npt.NDArray[np.bool_]:
    """Return which rows (R,) are held apart: train rows that are to the others what test rows are to them.

    Of check-ins, whose test rows are later ones of the same users, the latest ``share`` of each user's train
    rows; of sessions, whose test rows are of other sessions, all rows of a random ``share`` of the sessions.
    They depend on the data alone.

    Example:
        >>> from refit_env.data import load_dataset
        >>> from refit_env.data.synthetic_checkins import checkins
        >>> rows = checkins(seed=0).episodes
        >>> round(held_rows(rows, 0.25).sum() / len(rows.rows_of("train")), 1)
        0.2
    """
    train = data.split_of == SPLITS.index("train")  # (R,)
    sessions = data.sessions
    out = np.zeros(train.size, np.bool_)
    if data.task == "sequential":
        chance = np.random.default_rng(0).random(int(sessions.max(initial=0)) + 1)
        out[train] = chance[sessions[train]] < share
        return out
    rows = data.rows_of("train")  # sorted by session and position
    first = np.searchsorted(sessions[rows], sessions[rows])  # (n,) where each row's session begins
    count = np.searchsorted(sessions[rows], sessions[rows], side="right") - first
    out[rows] = np.arange(rows.size) - first >= np.ceil((1.0 - share) * count)
    return out


def without_rows(data: RowDataset, held: npt.NDArray[np.bool_]) -> RowDataset:
    """Return the data set whose train rows are those that are not ``held`` (R,); rows keep their numbers."""
    return replace(
        data,
        targets=data.targets.select(~held[data.targets.users]),
        split_of=np.where(held, APART, data.split_of).astype(data.split_of.dtype),
    )
