"""All swaps that can change a list, at once; ``agents.gradients.sampled_pairs`` draws pairs instead.

A list of K changes where one of its items swaps ranks with another, and only items with scores near those of
the list can enter it. So of each episode the C best items are taken, and the pairs of each of the K first
with every other one are summed in closed form: K * C pairs in a few batched matrix products, where
``agents.gradients.sampled_pairs`` draws some dozens of them. The density of a pair's crossing is exact, and
so are its directions. The rank r of the two where their scores are equal would need a new ranking of the
catalogue for each pair. Here the scores of all others are taken as unchanged: the step along e_i - e_j that
makes i and j equal has, in D dimensions, a small component along a third embedding.

This is an approximation, better for larger D: about 5 % off at D = 8, within the noise of measurement at
32 (``tests/agents/gradients/test_topk_pairs.py``). In return a gradient has forty times the signal for its
noise that drawn pairs have, which are unbiased (``benchmarks/gradient_noise.py``).

Letters: N episodes, D size of the diffused vector, E size of the context, C candidates, I items, K list
length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.gradients.rank_thresholds import drops
from agents.gradients.sampled_pairs import Ends, Slope

CANDIDATES = 256
"""C, items of an episode that may swap with one of its list; twice the list if that is more."""


@dataclass
class ListSwaps:
    """The weights of the pairs of each episode's candidates.

    Attributes:
        items: (N, C) the candidates, the best first.
        weight: (N, K, C) w of ``agents.gradients.sampled_pairs`` for a pair (first of the list, candidate),
        counted once. across: (N, K, C) t, where u* = u_0 - t (e_i - e_j) is the sample with the two level.
    """

    items: Tensor
    weight: Tensor
    across: Tensor

    def total(self) -> Tensor:
        """Return (N, C) the sum of w over a candidate's pairs, negative where it is the second of a pair."""
        first = self.weight.sum(2)  # (N, K)
        total = -self.weight.sum(1)  # (N, C)
        total[:, : first.shape[1]] += first
        return total

    def table_slope(self, u0: Tensor, near: Tensor) -> Tensor:
        """(N, C, D) sum of w u* as ``total`` sums w; ``near`` (N, C, D) are the candidates' embeddings."""
        first = self.weight.shape[1]
        moved = self.weight * self.across  # (N, K, C)
        out = self.total()[..., None] * u0[:, None]  # (N, C, D)
        out += moved.transpose(1, 2) @ near[:, :first] - moved.sum(1)[..., None] * near
        out[:, :first] += moved @ near - moved.sum(2)[..., None] * near[:, :first]
        return out


def list_slope(ends: Ends, gains: Tensor, discount: Tensor, of_table: bool = False) -> Slope:
    """Return an estimate of d/dm E[r(u_0)] of a list reward, and of its derivative in what scores u_0.

    The arguments are those of ``agents.gradients.sampled_pairs.linear_slope``; nothing is drawn.
    """
    found = list_swaps(ends, gains, drops(discount))
    items, total = found.items, found.total()  # (N, C) each
    near = ends.table[items]  # (N, C, D)
    out = ends.no_slope()
    out.mean += (total[:, None] @ near).squeeze(1)
    if of_table:
        out.table.index_add_(0, items.flatten(), found.table_slope(ends.u0, near).flatten(0, 1))
    if ends.context is not None:
        context, by_context = ends.second_part()
        out.context += (total[:, None] @ by_context[items]).squeeze(1)
        move = total[..., None] * context[:, None]  # (N, C, E)
        out.context_table.index_add_(0, items.flatten(), move.flatten(0, 1))
    return out


def list_swaps(ends: Ends, gains: Tensor, drop: Tensor) -> ListSwaps:
    """Compute the weights of the swaps of the K first items of each list.

    Args:
        ends: the samples.
        gains: (N, I) value of having an item in the list.
        drop: (K,) the discount of each rank minus that of the next one.
    """
    scores, std = ends.scores, ends.std
    most = min(max(CANDIDATES, 2 * drop.numel()), scores.shape[1])
    best, items = scores.topk(most, dim=1)  # (N, C)
    near = ends.table[items]  # (N, C, D)
    first = min(drop.numel(), items.shape[1])
    square = near.square().sum(2)  # (N, C)
    inner = near[:, :first] @ near.transpose(1, 2)  # (N, K, C)
    apart = (square[:, :first, None] + square[:, None] - 2 * inner).clamp(min=1e-12)  # (N, K, C)
    ahead = best[:, :first, None] - best[:, None]  # (N, K, C)
    across = ahead / apart  # (N, K, C)
    level = best[:, :first, None] - across * (square[:, :first, None] - inner)  # (N, K, C)
    rank = _others_above(level, best)  # (N, K, C)
    change = torch.cat([drop, drop.new_zeros(1)])[rank.clamp(max=drop.numel())]  # (N, K, C)
    mean, gain = ends.expected.gather(1, items), gains.gather(1, items)  # (N, C)
    z = (mean[:, :first, None] - mean[:, None]) / (std * apart.sqrt())  # (N, K, C)
    density = torch.exp(-0.5 * z.square()) / (math.sqrt(2 * math.pi) * std * apart.sqrt())
    weight = density * change * (gain[:, :first, None] - gain[:, None])  # (N, K, C)
    weight[:, :, :first] *= 0.5  # both are in the list: the pair is counted twice
    weight = torch.where(torch.isfinite(weight) & torch.isfinite(across), weight, 0.0)
    return ListSwaps(items, weight, torch.where(torch.isfinite(across), across, 0.0))


def _others_above(level: Tensor, best: Tensor) -> Tensor:
    """(N, K, C) how many of the candidates but the two score above ``level`` (N, K, C); ``best`` (N, C)."""
    count, first, many = level.shape
    flat = level.reshape(count, -1)  # (N, K * C)
    rising = best.flip(1).contiguous()  # (N, C)
    above = many - torch.searchsorted(rising, flat, right=True).view(level.shape)  # (N, K, C)
    itself = (best[:, :first, None] > level).long() + (best[:, None] > level).long()
    # The two are the same item on the diagonal, which has no weight.
    return (above - itself).clamp(min=0)
