"""Interaction rows with larger weights for a user's recent items.

Letters: U users, I items, N interactions, n_u interactions of a user.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from refit_env.data.interactions import Interactions


def rising_weights(train: Interactions, oldest: float, newest: float) -> sp.csr_matrix:
    """Weight each user's items by ``linspace(oldest, newest, n_u)`` in order of time (T-DiffRec, Sec. 3.4).

    Args:
        train: the interactions, each user's oldest first.
        oldest: weight of a user's first item, and of an only item.
        newest: weight of the last item.

    Returns:
        (U, I) float32; a repeated item has the weight of its latest position.

    Example:
        >>> rows = Interactions.from_pairs([0, 0, 0], [2, 0, 1], num_users=1, num_items=3)
        >>> rising_weights(rows, 0.5, 1.0).toarray()
        array([[0.75, 1.  , 0.5 ]], dtype=float32)
    """
    place = train.places
    steps = np.maximum(train.counts[train.users] - 1, 1)  # (N,)
    return _weighted(train, oldest + (newest - oldest) * place / steps)


def reciprocal_weights(train: Interactions, decay: float = 1.0) -> sp.csr_matrix:
    """Return (U, I) float32 with the weights 1, 2^-decay, 3^-decay ... of a user's items, newest first.

    Example:
        >>> rows = Interactions.from_pairs([0, 0, 0], [2, 0, 1], num_users=1, num_items=3)
        >>> reciprocal_weights(rows).toarray()
        array([[0.5       , 1.        , 0.33333334]], dtype=float32)
    """
    back = train.counts[train.users] - train.places  # (N,) 1 is the newest
    return _weighted(train, back.astype(np.float64) ** -decay)


def split_rows(train: Interactions, start: float, end: float) -> tuple[Interactions, Interactions]:
    """Split each user's row at a point of time.

    Args:
        train: the interactions, each user's oldest first.
        start: share of a row, 0 to 1, before the point.
        end: share of a row, from ``start`` on, at which the future ends.

    Returns:
        The interactions before the point, and those from it to ``end``.

    Example:
        >>> rows = Interactions.from_pairs([0, 0, 0, 0], [2, 0, 1, 3], num_users=1, num_items=4)
        >>> known, future = split_rows(rows, 0.5, 0.75)
        >>> known.items, future.items
        (array([2, 0], dtype=int32), array([1], dtype=int32))
    """
    share = train.places / train.counts[train.users]  # (N,)
    return train.select(share < start), train.select((start <= share) & (share < end))


def _weighted(train: Interactions, weight: npt.NDArray[np.float64]) -> sp.csr_matrix:
    """Return (U, I) with the weight (N,) of each item's latest interaction."""
    key = train.users * train.num_items + train.items  # (N,)
    order = np.lexsort((train.places, key))
    latest = np.append(np.diff(key[order]) > 0, True)[: len(train)]  # the last interaction with each item
    out = train.csr.copy()  # stores its values in the order of the keys
    out.data = weight[order][latest].astype(np.float32)
    return out
