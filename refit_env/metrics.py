"""Full-ranking metrics on batches.

Letters: B users in the batch, I items, K list length.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def top_k(scores: Tensor, k: int, hidden: Tensor | None = None) -> Tensor:
    """The k best-scored items of each user, best first; ties go to the lower item id.

    Args:
        scores: (B, I) float, higher is better.
        k: list length, 1 <= k <= I.
        hidden: (B, I) bool, items that no list may hold; if fewer than k others are left, hidden
            items fill the end of the list (callers that count hits mask them again).

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
    if hidden is not None:
        scores = scores.masked_fill(hidden, -math.inf)
    depth = min(k + 1, scores.shape[1])
    value, item = scores.topk(depth, dim=1)  # (B, K + 1); the order of ties is torch's own
    if bool(value.isnan().any()):  # topk ranks NaN first, so a look at the lists is enough
        raise ValueError("scores hold NaN; every score must be a number")
    tied = (value[:, 1:] == value[:, :-1]).any(1)  # (B,)
    if bool(tied.any()):
        again = torch.sort(scores[tied], dim=1, descending=True, stable=True).indices[:, :depth]
        item[tied] = again
    return item[:, :k]


def discounts(k: int, device: torch.device | str = "cpu") -> Tensor:
    """(K,) float32 weights 1 / log2(rank + 1) of ranks 1..K (Jarvelin and Kekalainen, 2002)."""
    return 1.0 / torch.log2(torch.arange(2, k + 2, dtype=torch.float32, device=device))


def hits(lists: Tensor, relevant: Tensor) -> Tensor:
    """(B, K) float32, 1 where the list's item is relevant; ``lists`` (B, K), ``relevant`` (B, I) bool."""
    return relevant.gather(1, lists).float()


def recall_at_k(lists: Tensor, relevant: Tensor) -> Tensor:
    """Hits over the number of relevant items (not over min(K, that number)), 0 where there are none.

    Args:
        lists: (B, K) int64.
        relevant: (B, I) bool.

    Returns:
        (B,) float32 in 0..1.
    """
    return hits(lists, relevant).sum(1) / relevant.sum(1).clamp(min=1)


def ndcg_at_k(lists: Tensor, relevant: Tensor) -> Tensor:
    """Binary-gain NDCG with the ideal list cut at min(K, relevant items); 0 where there are none.

    Args:
        lists: (B, K) int64.
        relevant: (B, I) bool.

    Returns:
        (B,) float32 in 0..1.
    """
    weight = discounts(lists.shape[1], lists.device)  # (K,)
    gained = (hits(lists, relevant) * weight).sum(1)  # (B,)
    return gained / ideal_dcg(relevant.sum(1), lists.shape[1]).to(gained.device)


def ideal_dcg(relevant: Tensor, k: int) -> Tensor:
    """(B,) DCG of a perfect list of length k for users with ``relevant`` (B,) items; 1 where there are none."""
    table = torch.cat([torch.ones(1), discounts(k).cumsum(0)]).to(relevant.device)  # (K + 1,)
    return table[relevant.clamp(max=k)]


def coverage_at_k(lists: Tensor, num_items: int) -> float:
    """Share of the catalogue that at least one list holds."""
    return lists.unique().numel() / num_items


def gini(lists: Tensor, num_items: int) -> float:
    """Gini coefficient of how often each item is recommended: 0 is even, 1 is one item for all.

    Example:
        >>> gini(torch.tensor([[0, 1], [2, 3]]), num_items=4)
        0.0
    """
    counts = torch.bincount(lists.flatten(), minlength=num_items).double().sort().values  # (I,)
    rank = torch.arange(1, num_items + 1, dtype=torch.float64, device=counts.device)
    return float((2 * rank - num_items - 1) @ counts / (num_items * counts.sum()).clamp(min=1e-12))
