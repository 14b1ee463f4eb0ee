"""Full-ranking metrics on batches.

Letters: B users in the batch, I items, K list length, n entries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def top_k(scores: Tensor, k: int, hidden: Tensor | None = None) -> Tensor:
    """Return the k best-scored items of each user, best first; ties go to the lower item id.

    ``torch.topk`` does not define the order of ties. Only users with ties need a second step here, so
    scores without ties cost as much as ``torch.topk``.

    Args:
        scores: (B, I) float, higher is better.
        k: list length, 1 <= k <= I.
        hidden: (B, I) bool, masked items. They rank after all others, even those with score -inf. If fewer
            than k other items are left, hidden items fill the end of the list, which callers must ignore.

    Returns:
        (B, K) int64.

    Raises:
        ValueError: if k is outside 1..I or a score is NaN.

    Example:
        >>> top_k(torch.tensor([[0.5, 0.9, 0.5, 0.5]]), k=3)
        tensor([[1, 0, 2]])
    """
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k={k} must lie in 1..{scores.shape[1]}, the number of items")
    if hidden is None:
        check_no_nan(scores)
    else:
        scores = rankable(scores).masked_fill(hidden, -math.inf)
    depth = min(k + 1, scores.shape[1])
    value, item = scores.topk(depth, dim=1)  # (B, K + 1); torch does not define the order of ties
    tied = value[:, 1:] == value[:, :-1]  # (B, K)
    value, item = value[:, :k], item[:, :k]
    if not bool(tied.any()):
        return item
    if depth > k:
        _break_last_tie(scores, value, item, torch.nonzero(tied[:, k - 1]).flatten())
    item, order = item.sort(dim=1)
    order = value.gather(1, order).sort(dim=1, descending=True, stable=True).indices  # (B, K)
    return item.gather(1, order)


def _break_last_tie(scores: Tensor, value: Tensor, item: Tensor, users: Tensor) -> None:
    """Put the lowest ids into lists whose last item ties with an item outside the list.

    Args:
        scores: (B, I).
        value: (B, K) the lists' scores, descending.
        item: (B, K) the lists, changed in place.
        users: (R,) rows of the batch with such a tie.
    """
    if not users.numel():
        return
    some = scores if users.numel() == scores.shape[0] else scores[users]  # (R, I)
    last = value[users, -1:]  # (R, 1) the lowest score in the list
    row, candidate = torch.nonzero(some == last, as_tuple=True)  # (n,), (n,), ids ascending in each row
    count = torch.bincount(row, minlength=users.numel())  # (R,)
    first = (count.cumsum(0) - count)[:, None]  # (R, 1) where each row's candidates begin
    at_edge = value[users] == last  # (R, K)
    nth = (at_edge.cumsum(1) - 1).clamp(min=0)  # (R, K)
    item[users] = torch.where(at_edge, candidate[first + nth], item[users])


def check_no_nan(scores: Tensor) -> None:
    """Raise ``ValueError`` if a score is NaN, naming the first row and item."""
    # A sum propagates NaN and is cheaper than isnan of every score. inf - inf is also NaN, hence the second
    # test.
    if bool(scores.sum().isnan()) and bool(scores.isnan().any()):
        row, item = torch.nonzero(scores.isnan())[0].tolist()
        raise ValueError(f"scores hold NaN (first at row {row}, item {item}); every score must be a number")


def rankable(scores: Tensor) -> Tensor:
    """Return scores (B, I) in which the smallest finite number replaces -inf, which marks masked items.

    Otherwise an unmasked item with score -inf would tie with the masked items.

    Raises:
        ValueError: if a score is NaN, naming the first row and item.

    Example:
        >>> rankable(torch.tensor([[-math.inf, 0.5]]))
        tensor([[-3.4028e+38,  5.0000e-01]])
    """
    if bool(scores.sum().isfinite()):  # then every score is finite
        return scores
    check_no_nan(scores)
    return scores.clamp(min=torch.finfo(scores.dtype).min)


def discounts(k: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the weights (K,) float32 1 / log2(rank + 1) of ranks 1..K (Jarvelin and Kekalainen, 2002)."""
    return 1.0 / torch.log2(torch.arange(2, k + 2, dtype=torch.float32, device=device))


def hits(lists: Tensor, relevant: Tensor) -> Tensor:
    """Return (B, K) float32, 1 where the item of ``lists`` (B, K) is in ``relevant`` (B, I) bool."""
    return relevant.gather(1, lists).float()


def recall_at_k(lists: Tensor, relevant: Tensor) -> Tensor:
    """Return hits divided by the number of relevant items (not by min(K, that number)); 0 without any.

    Args:
        lists: (B, K) int64.
        relevant: (B, I) bool.

    Returns:
        (B,) float32 in 0..1.

    Example:
        >>> recall_at_k(torch.tensor([[2, 0]]), torch.tensor([[True, True, False, True]]))
        tensor([0.3333])
    """
    return recall_of(hits(lists, relevant), relevant.sum(1))


def ndcg_at_k(lists: Tensor, relevant: Tensor) -> Tensor:
    """Return the NDCG with binary gains and an ideal list of min(K, relevant items); 0 without any.

    Args:
        lists: (B, K) int64.
        relevant: (B, I) bool.

    Returns:
        (B,) float32 in 0..1.

    Example:
        Only the second item is a hit; an ideal list has it first: 1 / log2(3).

        >>> ndcg_at_k(torch.tensor([[2, 0]]), torch.tensor([[True, False, False]]))
        tensor([0.6309])
    """
    return ndcg_of(hits(lists, relevant), relevant.sum(1))


def recall_of(found: Tensor, relevant: Tensor) -> Tensor:
    """Return ``recall_at_k`` of hits ``found`` (B, K) and numbers of relevant items (B,)."""
    return found.sum(1) / relevant.clamp(min=1)


def ndcg_of(found: Tensor, relevant: Tensor) -> Tensor:
    """Return ``ndcg_at_k`` of hits ``found`` (B, K) and numbers of relevant items (B,)."""
    k = found.shape[1]
    return (found * discounts(k, found.device)).sum(1) / ideal_dcg(relevant, k)


def ideal_dcg(relevant: Tensor, k: int) -> Tensor:
    """Return the DCG (B,) of an ideal list of length k for ``relevant`` (B,) items; 1 for 0 items."""
    table = discounts(k, relevant.device).cumsum(0)  # (K,)
    return torch.where(relevant > 0, table[(relevant - 1).clamp(min=0, max=k - 1)], 1.0)


def coverage_at_k(lists: Tensor, num_items: int) -> float:
    """Return the share of the catalogue that at least one list contains; -1 marks an empty position."""
    return int(torch.unique(lists[lists >= 0]).numel()) / num_items


def gini(lists: Tensor, num_items: int) -> float:
    """Return the Gini coefficient of the recommendation counts: 0 is uniform, 1 - 1/I is one item for all.

    Example:
        >>> gini(torch.tensor([[0, 1], [2, 3]]), num_items=4)
        0.0
        >>> gini(torch.tensor([[0], [0]]), num_items=4)
        0.75
    """
    counts = torch.bincount(lists[lists >= 0], minlength=num_items).double().sort().values  # (I,)
    rank = torch.arange(1, num_items + 1, dtype=torch.float64, device=counts.device)
    return float((2 * rank - num_items - 1) @ counts / (num_items * counts.sum()).clamp(min=1e-12))
