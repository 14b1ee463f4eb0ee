"""Interaction rows with larger weights for a user's recent items.

Letters: U users, I items, N interactions, n_u interactions of a user, B histories in a batch, n their length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from refit_env.data.interactions import Interactions

Weigh = Callable[[Tensor, Tensor], Tensor]
"""Places (B, n) and counts (B, 1) of a history's items -> their weights (B, n)."""


def rising_weights(
    train: Interactions, oldest: float, newest: float, repeats: str = "latest"
) -> sp.csr_matrix:
    """Weight each user's items by ``linspace(oldest, newest, n_u)`` in order of time (T-DiffRec, Sec. 3.4).

    Args:
        train: the interactions, each user's oldest first.
        oldest: weight of a user's first item, and of an only item.
        newest: weight of the last item.
        repeats: weight of a repeated item: ``latest``, of its latest position; ``sum``, of all positions.

    Returns:
        (U, I) float32.

    Example:
        >>> rows = Interactions.from_pairs([0, 0, 0], [2, 0, 1], num_users=1, num_items=3)
        >>> rising_weights(rows, 0.5, 1.0).toarray()
        array([[0.75, 1.  , 0.5 ]], dtype=float32)
    """
    return _weighted(train, rising(train.places, train.counts[train.users], oldest, newest), repeats)


def reciprocal_weights(train: Interactions, decay: float = 1.0, repeats: str = "latest") -> sp.csr_matrix:
    """Return (U, I) float32 with the weights 1, 2^-decay, 3^-decay ... of a user's items, newest first.

    Args:
        train: the interactions, each user's oldest first.
        decay: the power; 0 weights all items alike.
        repeats: as for ``rising_weights``.

    Example:
        >>> rows = Interactions.from_pairs([0, 0, 0], [2, 0, 1], num_users=1, num_items=3)
        >>> reciprocal_weights(rows).toarray()
        array([[0.5       , 1.        , 0.33333334]], dtype=float32)
    """
    return _weighted(train, reciprocal(train.places, train.counts[train.users], decay), repeats)


def rising(place: Any, count: Any, oldest: float, newest: float) -> Any:
    """Return the weights of the items at places 0.. of rows with ``count`` items: arrays or tensors alike."""
    return oldest + (newest - oldest) * place / (count - 1 * (count > 1))


def reciprocal(place: Any, count: Any, decay: float) -> Any:
    """Return the weights 1 / b^decay, b = 1 for the newest item; arguments as for ``rising``."""
    return (count - place) ** (-1.0 * decay)


def history_rows(
    histories: Tensor, num_items: int, weigh: Weigh | None = None, repeats: str = "latest"
) -> Tensor:
    """Return the weighted rows (B, I) float32 of histories: what ``rows`` holds for users who have them.

    Args:
        histories: (B, n) int64 items, oldest first; numbers outside 0..I-1 are padding.
        num_items: I.
        weigh: places and counts -> weights, all (B, n); None weights every item by 1.
        repeats: as for ``rising_weights``; ``latest`` is the largest weight.

    Example:
        >>> import torch
        >>> history_rows(torch.tensor([[2, 0, -1]]), 3, lambda place, count: rising(place, count, 0.5, 1.0))
        tensor([[1.0000, 0.0000, 0.5000]])
    """
    there, place, count = places_in(histories, num_items)  # (B, n), (B, n), (B, 1)
    weights = torch.ones_like(place, dtype=torch.float32)  # (B, n)
    if weigh is not None:
        inside = place.clamp(min=0).to(torch.float32)  # padding before the first item has the place -1
        weights = weigh(inside, count.clamp(min=1).to(torch.float32))
    column = torch.where(there, histories, num_items)  # (B, n)
    out = torch.zeros(histories.shape[0], num_items + 1, device=histories.device)
    return out.scatter_reduce(1, column, weights * there, "amax" if repeats == "latest" else "sum")[
        :, :num_items
    ]


def places_in(histories: Tensor, num_items: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return where histories (B, n) hold items (B, n), each item's place (B, n), and their number (B, 1)."""
    there = (histories >= 0) & (histories < num_items)
    place = there.long().cumsum(1) - 1
    return there, place, there.long().sum(1, keepdim=True)


def latest_items(histories: Tensor, num_items: int, length: int) -> Tensor:
    """Return the last ``length`` items of histories (B, n), oldest first, as (B, length) padded with I.

    Example:
        >>> import torch
        >>> latest_items(torch.tensor([[2, -1, 0, 1], [1, -1, -1, -1]]), 3, 2)
        tensor([[0, 1],
                [1, 3]])
    """
    there, place, count = places_in(histories, num_items)
    column = place - (count - length).clamp(min=0)  # (B, n)
    column = torch.where(there & (column >= 0), column, length)
    out = torch.full((histories.shape[0], length + 1), num_items, device=histories.device)
    return out.scatter(1, column, histories)[:, :length]


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


def friends_rows(train: Interactions, social: npt.NDArray[np.int32]) -> sp.csr_matrix:
    """Return how many friends of each user have an item (U, I), each row divided by its Euclidean norm.

    A user without friends has a row of 0.

    Args:
        train: the interactions.
        social: (S, 2) directed pairs of users; the second is a friend of the first.

    Example:
        >>> rows = Interactions.from_pairs([0, 1, 2, 2], [0, 1, 1, 2], num_users=3, num_items=3)
        >>> friends_rows(rows, np.array([[0, 1], [0, 2]], np.int32)).toarray()[0].round(3)
        array([0.   , 0.894, 0.447], dtype=float32)
    """
    count = train.num_users
    ties = sp.csr_matrix((np.ones(len(social), np.float32), social.T), (count, count))
    ties.data[:] = 1.0  # a pair that is listed twice
    visits = sp.csr_matrix(ties @ train.csr, dtype=np.float64)  # (U, I)
    norm = np.sqrt(np.asarray(visits.multiply(visits).sum(1)).ravel())  # (U,)
    return sp.csr_matrix(sp.diags(1.0 / np.maximum(norm, 1e-30)) @ visits, dtype=np.float32)


def _weighted(train: Interactions, weight: npt.NDArray[np.float64], repeats: str) -> sp.csr_matrix:
    """Return (U, I) with the weight (N,) of each item's latest interaction, or the sum of all of them."""
    if repeats == "sum":
        out = sp.csr_matrix((weight, train.items.astype(np.int64), train.indptr), train.csr.shape)
        out.sum_duplicates()
        return out.astype(np.float32)
    key = train.users * train.num_items + train.items  # (N,)
    order = np.lexsort((train.places, key))
    latest = np.append(np.diff(key[order]) > 0, True)[: len(train)]  # the last interaction with each item
    out = train.csr.copy()  # stores its values in the order of the keys
    out.data = weight[order][latest].astype(np.float32)
    return out
