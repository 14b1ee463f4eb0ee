"""Splits of interactions into train, validation and test: disjoint, and nothing is lost.

Letters: U users, N interactions, n_u interactions of a user.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from refit_env.data.dataset import Interactions

Parts = tuple[Interactions, Interactions, Interactions]
"""Train, valid, test."""


def by_time(rows: Interactions, valid_share: float = 0.1, test_share: float = 0.2) -> Parts:
    """The latest ``test_share`` of each user's row is test, what precedes it validation.

    Args:
        rows: in each user's order of time.
        valid_share: share of the row, rounded; at least one of the row stays train.
        test_share: share of the row, rounded.

    Raises:
        ValueError: if the shares are not in 0..1 or leave nothing to train on.
    """
    return _by_place(rows, _place(rows), valid_share, test_share)


def random_per_user(
    rows: Interactions, valid_share: float = 0.1, test_share: float = 0.2, seed: int = 0
) -> Parts:
    """A random ``test_share`` of each user's row is test, another ``valid_share`` validation.

    Args:
        rows: in any order; each part keeps it.
        valid_share: share of the row, rounded; at least one of the row stays train.
        test_share: share of the row, rounded.
        seed: of the choice.
    """
    order = np.lexsort((np.random.default_rng(seed).random(len(rows)), rows.users))
    place = np.empty(len(rows), dtype=np.int64)
    place[order] = _place(rows)
    return _by_place(rows, place, valid_share, test_share)


def leave_one_out(rows: Interactions) -> Parts:
    """The last item of each user is test, the one before it validation; the rest is train.

    A row of two has no validation item, a row of one only train.
    """
    left = rows.counts[rows.users] - _place(rows)  # (N,) 1 for the last of a row
    long = rows.counts[rows.users]
    return _parts(rows, np.where((left == 1) & (long >= 2), 2, np.where((left == 2) & (long >= 3), 1, 0)))


def _place(rows: Interactions) -> npt.NDArray[np.int64]:
    """(N,) each interaction's place in its row."""
    return np.arange(len(rows), dtype=np.int64) - rows.indptr[rows.users]


def _by_place(
    rows: Interactions, place: npt.NDArray[np.int64], valid_share: float, test_share: float
) -> Parts:
    """Cut each row at its places: train first, then validation, then test."""
    if not (0 <= valid_share < 1 and 0 <= test_share < 1 and valid_share + test_share < 1):
        raise ValueError(
            f"valid_share={valid_share} and test_share={test_share} must be in 0..1 and leave train rows"
        )
    counts = rows.counts
    test = np.minimum(np.round(test_share * counts), np.maximum(counts - 1, 0)).astype(np.int64)  # (U,)
    valid = np.minimum(np.round(valid_share * counts), np.maximum(counts - 1 - test, 0)).astype(np.int64)
    train = counts - test - valid
    part = (place >= train[rows.users]).astype(np.int64) + (place >= (train + valid)[rows.users])
    return _parts(rows, part)


def _parts(rows: Interactions, part: npt.NDArray[np.int64]) -> Parts:
    """The interactions of part 0, 1 and 2."""
    return rows.select(part == 0), rows.select(part == 1), rows.select(part == 2)
