"""Diff-POI's encoders of a history of visits.

A history is a graph: its nodes are its different places, its edges the moves from one visit to the next, each
with a duration and a distance.

Letters: B histories, L visits of each, D size of an embedding, I places, N buckets of an interval.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def relative_buckets(intervals: Tensor, count: int) -> Tensor:
    """Return intervals in units of each history's smallest positive one, rounded down (as in TiSASRec).

    Args:
        intervals: (B, L), 0 where there is none.
        count: N.

    Returns:
        (B, L) int64 in 0..N - 1; longer intervals share the last bucket.

    Example:
        >>> relative_buckets(torch.tensor([[0.0, 2.0, 5.0, 900.0]]), 256)
        tensor([[  0,   1,   2, 255]])
    """
    positive = torch.where(intervals > 0, intervals, torch.inf)  # (B, L)
    unit = positive.amin(1, keepdim=True)  # (B, 1) infinite if no interval is positive: all become 0
    return (intervals / unit).clamp(0, count - 1).long()


def first_places(items: Tensor) -> Tensor:
    """Return (B, L) int64, the first visit of each history in ``items`` (B, L) at the same place.

    Example:
        >>> first_places(torch.tensor([[7, 3, 7, 3]]))
        tensor([[0, 1, 0, 1]])
    """
    same = items[:, :, None] == items[:, None, :]  # (B, L, L)
    return same.to(torch.uint8).argmax(2)  # the first of the largest


class MoveAttention(nn.Module):
    """Attention of each place over its predecessors, and over its successors.

    A move from i to j has the logit a . (x_i * x_j + way_ij + time_ij), with a vector a for each of the two
    directions, where way is the embedding of the distance; weights are a softmax over a place's moves of one
    direction; a place's new embedding is its embedding plus the weighted sums of both directions. The
    reference code omits the place's embedding, which would make a history of one visit, without moves, zero.
    """

    def __init__(self, size: int, buckets: int) -> None:
        """Build it for embeddings of ``size`` numbers and ``buckets`` distances and times."""
        super().__init__()
        self.ways, self.times = nn.Embedding(buckets, size), nn.Embedding(buckets, size)
        self.towards, self.back = (nn.Parameter(torch.empty(size)) for _ in range(2))
        for table in (self.ways, self.times):
            nn.init.xavier_normal_(table.weight)
        for vector in (self.towards, self.back):
            nn.init.normal_(vector, 0.0, size**-0.5)

    def forward(self, x: Tensor, node: Tensor, there: Tensor, ways: Tensor, times: Tensor) -> Tensor:
        """Return new embeddings of places.

        Args:
            x: (B, L, D) the embedding of each visited place.
            node: (B, L) int64 first visit at the same place, see ``first_places``.
            there: (B, L) bool, whether there is a visit.
            ways: (B, L) int64 buckets of the distance from the previous visit; the first one is ignored.
            times: (B, L) int64 buckets of the time since the previous visit; the first one is ignored.

        Returns:
            (B, L, D), valid at the first visit of each place.
        """
        begin, end = x[:, :-1], x[:, 1:]  # (B, L - 1, D)
        product = begin * end
        out = x
        for vector, source, target in (
            (self.towards, node[:, :-1], node[:, 1:]),
            (self.back, node[:, 1:], node[:, :-1]),
        ):
            logits = product @ vector  # (B, L - 1)
            logits = logits + (self.ways.weight @ vector)[ways[:, 1:]]
            logits = logits + (self.times.weight @ vector)[times[:, 1:]]
            shares = _shares(logits, source, target, there[:, 1:], x.shape[1])  # (B, L, L)
            out = out + shares @ x
        return out


def _shares(logits: Tensor, source: Tensor, target: Tensor, there: Tensor, length: int) -> Tensor:
    """Return the softmax over each target's incoming moves, as a matrix.

    Args:
        logits: (B, M) logits of M moves.
        source: (B, M) int64.
        target: (B, M) int64.
        there: (B, M) bool, whether there is a move.
        length: L.

    Returns:
        (B, L, L) by target and source; moves between the same places are summed; rows without moves are 0.
    """
    count = logits.shape[0]
    logits = logits.masked_fill(~there, torch.finfo(logits.dtype).min)
    highest = torch.full(
        (count, length), torch.finfo(logits.dtype).min, device=logits.device, dtype=logits.dtype
    )
    highest = highest.scatter_reduce(1, target, logits.detach(), "amax")  # (B, L) by target
    each = torch.exp(logits - highest.gather(1, target)) * there  # (B, M)
    weights = torch.zeros(count, length * length, device=logits.device, dtype=logits.dtype)
    weights = weights.scatter_add(1, target * length + source, each).view(count, length, length)
    return weights / weights.sum(2, keepdim=True).clamp(min=1e-12)


class VisitEncoder(nn.Module):
    """The sequence encoder: move attention, self-attention among a history's places, and their mean."""

    def __init__(self, size: int, heads: int, buckets: int, dropout: float) -> None:
        """Build it for embeddings of ``size`` numbers."""
        super().__init__()
        self.moves = MoveAttention(size, buckets)
        self.heads = heads
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.widen, self.narrow = nn.Linear(size, size), nn.Linear(size, size)
        self.norm, self.last = nn.LayerNorm(size), nn.LayerNorm(size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, node: Tensor, there: Tensor, ways: Tensor, times: Tensor) -> Tensor:
        """Return encodings (B, D) of histories, with ``MoveAttention``'s arguments; 0 without visits."""
        first = torch.arange(x.shape[1], device=x.device) == node  # (B, L)
        nodes = first & there  # (B, L) each place once
        x = self.moves(x, node, there, ways, times)  # (B, L, D)
        x = self.norm(x + self.dropout(self._attend(x, nodes)))
        x = self.last(x + self.dropout(self.narrow(functional.relu(self.widen(x)))))
        weight = nodes.to(x.dtype) / nodes.sum(1, keepdim=True).clamp(min=1)  # (B, L)
        return torch.einsum("bl,bld->bd", weight, x)

    def _attend(self, x: Tensor, nodes: Tensor) -> Tensor:
        """Apply scaled dot-product attention to (B, L, D) among ``nodes`` (B, L)."""
        batch, length, size = x.shape
        split = self.qkv(x).view(batch, length, 3, self.heads, size // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # (B, heads, L, D / heads) each
        seen = nodes | ~nodes.any(1, keepdim=True)  # a history without visits attends to all: no NaN
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :])
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, size))
        return out


class TargetAttention(nn.Module):
    """The spatial encoder: attention of a history's sequence encoding over the visited places.

    The query is the normalised encoding; keys and values are the geographic embeddings of the visits. A final
    normalisation gives the result unit variance, the variance of the SDE's x(1).
    """

    def __init__(self, size: int, dropout: float) -> None:
        """Build it for embeddings of ``size`` numbers."""
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.widen, self.narrow = nn.Linear(size, size), nn.Linear(size, size)
        self.before, self.between, self.last = (nn.LayerNorm(size) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Tensor, geo: Tensor, there: Tensor) -> Tensor:
        """Return the spatial encoding (B, D).

        Args:
            state: (B, D) sequence encodings.
            geo: (B, L, D) the visited places' geographic embeddings.
            there: (B, L) bool, whether there is a visit.
        """
        q = self.query(self.before(state))  # (B, D)
        logits = torch.einsum("bd,bld->bl", q, self.key(geo)) / geo.shape[2] ** 0.5
        shares = logits.masked_fill(~there, torch.finfo(logits.dtype).min).softmax(1)  # (B, L)
        x = self.between(torch.einsum("bl,bld->bd", shares, self.value(geo)))
        out: Tensor = self.last(x + self.dropout(self.narrow(functional.relu(self.widen(x)))))
        return out


def norm_bound(norm: nn.LayerNorm) -> float:
    """Return the largest absolute value that a layer normalisation can output.

    Example:
        >>> round(norm_bound(nn.LayerNorm(5)), 6)
        2.0
    """
    weight, bias = norm.weight.detach(), norm.bias.detach()
    return float((weight.abs() * (weight.numel() - 1) ** 0.5 + bias.abs()).max())
