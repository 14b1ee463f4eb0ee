"""The change of a reward when two items swap ranks, where u_0 is an embedding and scores are linear in it.

The last step draws u_0 = m + std * eps with D numbers of noise that all scores share, so no item's own
noise can be integrated out, as ``agents.gradients.estimators`` does where u_0 holds the scores. But a list's
reward changes only where two items swap ranks, on the hyperplane s_i = s_j, and by the divergence theorem

    d/dm E[r(u_0)] = sum_{i<j} n_ij phi(x_ij / std) / std * E[ (d_r - d_{r+1}) (g_i - g_j) | s_i = s_j ],

with n_ij = (e_i - e_j) / |e_i - e_j|, x_ij the distance of m from the hyperplane (positive where s_i > s_j),
g the gains, d the discounts, r and r + 1 the ranks of the two there. The noise is isotropic, so its
components across and along the hyperplane are independent: any sample, projected onto the hyperplane, is a
sample of u_0 given s_i = s_j. One episode thus serves every pair. Some pairs are drawn, in proportion to a
guess of their size (the exact term, with j's rank in the sample for r), and divided by their probability:
unbiased for any guess. The density of the crossing is exact; only the rank there is estimated.

Only pairs with different gains count, so one of the two is relevant: I pairs an episode where there is one
target. All terms move the target up or another item down; the score function's have a random direction each.

The embeddings E move the same hyperplanes, so a drawn pair also gives derivatives in the embeddings of the
two: with w = phi(x_ij / std) / (std |e_i - e_j|) (d_r - d_{r+1}) (g_i - g_j) and u* the projected sample,

    dm += w (e_i - e_j),    de_i += w u*,    de_j -= w u*,

and where scores have a second part f_i . c, linear in a context c, in that, too:

    dc += w (f_i - f_j),    df_i += w c,     df_j -= w c.

Such a policy is the chain and the scores of its end: its action is a list, which the environment rewards.

The estimator is for rewards in which every rank counts (``log_rank``). Where only a list's few ranks do,
a drawn pair rarely meets one that counts, and the variance can be larger than the score function's:
``agents.gradients.topk_pairs`` sums all of those at once.

Letters: N episodes, D size of the diffused vector, C size of the context, I items, K list length, P relevant
items of an episode at most, J pairs drawn for each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from agents.gradients.rank_thresholds import drops

FLOOR = 0.02
"""Share of the first discount that, over the rank, is added to the guess of every pair: none has
probability 0."""

MOST = 8
"""Relevant items of an episode that are all used; of more, so many are drawn by their gains."""


@dataclass
class Slope:
    """Derivatives of the expected reward.

    Attributes:
        mean: (N, D) in the last step's mean, episode by episode.
        table: (I, D) in the slope of the scores in u_0, summed over episodes; zeros if not wanted.
        context: (N, C) in the context, episode by episode; C = 0 where there is none.
        context_table: (I, C) in the slope of the scores in it, summed over episodes; likewise.
    """

    mean: Tensor
    table: Tensor
    context: Tensor
    context_table: Tensor


@dataclass(frozen=True)
class Ends:
    """The last steps of N episodes, and how their u_0 are scored.

    Attributes:
        u0: (N, D) samples of N(mean, std^2 I).
        mean: (N, D).
        scores: (N, I) of ``u0``; items that no list may hold are -inf.
        table: (I, D) the slope of the scores in u_0.
        std: the samples' standard deviation.
        context: (N, C) and (I, C), the second part of the scores: a context, and their slope in it.
    """

    u0: Tensor
    mean: Tensor
    scores: Tensor
    table: Tensor
    std: float
    context: tuple[Tensor, Tensor] | None = None

    @cached_property
    def expected(self) -> Tensor:
        """(N, I) the mean's scores."""
        return self.scores - (self.u0 - self.mean) @ self.table.T

    def second_part(self) -> tuple[Tensor, Tensor]:
        """The context (N, C) and the scores' slope in it (I, C), without graphs; C = 0 where none is."""
        if self.context is None:
            return self.mean[:, :0], self.table[:, :0]
        return self.context[0].detach(), self.context[1].detach()

    def no_slope(self) -> Slope:
        """Return the derivatives of 0."""
        return Slope(*(torch.zeros_like(t) for t in (self.mean, self.table, *self.second_part())))


def linear_slope(
    ends: Ends,
    gains: Tensor,
    discount: Tensor,
    pairs: int,
    generator: torch.Generator | None = None,
    of_table: bool = False,
) -> Slope:
    """An unbiased estimate of d/dm E[r(u_0)] of a list reward, and of its derivative in what scores u_0.

    Args:
        ends: the samples.
        gains: (N, I) value of having an item in the list.
        discount: (K,) weight of each rank, non-increasing.
        pairs: J.
        generator: source of the pairs drawn.
        of_table: whether the derivative in ``ends.table`` is wanted.
    """
    count = ends.scores.shape[1]
    drop = drops(discount)  # (K,)
    drop = torch.cat([drop, drop.new_zeros(max(0, count + 1 - drop.numel()))])  # (I + 1,)
    guess = _guess(discount, count)[_ranks(ends.scores)]  # (N, I)
    out, table = ends.no_slope(), ends.table
    context, by_context = ends.second_part()
    for i, times in _relevant_items(gains, guess, generator):  # (N,), (N, 1)
        partners, weights, meeting = _of_item(i, ends, gains, drop, guess, pairs, generator)
        for j, each, level in zip(partners, weights, meeting, strict=True):  # (N,), (N, 1), (N, D)
            weight = each * times
            out.mean += weight * (table[i] - table[j])
            if of_table:
                out.table.index_add_(0, i, weight * level).index_add_(0, j, weight * level, alpha=-1)
            if ends.context is not None:
                out.context += weight * (by_context[i] - by_context[j])
                move = weight * context  # (N, C)
                out.context_table.index_add_(0, i, move).index_add_(0, j, move, alpha=-1)
    return out


def _relevant_items(
    gains: Tensor, guess: Tensor, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield items with gains, one of each episode at a time: (N,) ids, and (N, 1) the weight of each.

    Of more than ``MOST``, so many are drawn, in proportion to their gains and to the guess for their ranks.
    """
    relevant = gains != 0  # (N, I)
    most = int(relevant.sum(1).max())
    if most <= MOST:
        item = torch.topk(relevant.float(), max(1, most), dim=1).indices  # (N, P)
        yield from ((i, torch.ones_like(gains[:, :1])) for i in item.unbind(1))
        return
    chance = gains.abs() * guess  # (N, I)
    chance = torch.where(relevant.any(1, keepdim=True), chance, 1.0)
    chance = chance / chance.sum(1, keepdim=True)
    drawn = torch.multinomial(chance, MOST, replacement=True, generator=generator)  # (N, MOST)
    for i in drawn.unbind(1):  # (N,)
        yield i, 1.0 / (MOST * chance.gather(1, i[:, None]))


def _guess(discount: Tensor, count: int) -> Tensor:
    """(I,) a guess of the change by a swap with the item of each rank, ``discount`` (K,), I = ``count``.

    On the hyperplane the two have other ranks than in the sample: the mean over ranks within a factor of 2.
    """
    rank = torch.arange(count, device=discount.device)
    padded = torch.cat([discount, discount.new_zeros(2 * count + 2)])
    low, high = rank // 2, 2 * rank + 2
    return (padded[low] - padded[high]) / (high - low) + FLOOR * discount[0] / (rank + 1)


def _ranks(scores: Tensor) -> Tensor:
    """Return (N, I) places of the items in each row, 0 the best."""
    order = scores.argsort(1, descending=True)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _of_item(
    i: Tensor,
    ends: Ends,
    gains: Tensor,
    drop: Tensor,
    guess: Tensor,
    pairs: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """J pairs that item ``i`` (N,) of each episode is in: the partners (J, N), w (N, 1) and u* (N, D)."""
    u0, scores, expected, table, std = ends.u0, ends.scores, ends.expected, ends.table, ends.std
    at = i[:, None]  # (N, 1)
    square = table.square().sum(1)  # (I,)
    apart = (square[i][:, None] + square - 2 * table[i] @ table.T).clamp(min=1e-12)  # (N, I) |e_i - e_j|^2
    z = (expected.gather(1, at) - expected) / (std * apart.sqrt())  # (N, I)
    gap = gains.gather(1, at) - gains  # (N, I)
    # Two relevant items meet from both sides: half of it each time.
    share = torch.where(gains != 0, 0.5, 1.0) * (gains.gather(1, at) != 0)  # (N, I)
    size = torch.exp(-0.5 * z.square()) / (math.sqrt(2 * math.pi) * std) * gap * share  # (N, I)
    size = torch.where(torch.isfinite(expected) & torch.isfinite(expected.gather(1, at)), size, 0.0)
    size = size.scatter(1, at, 0.0)
    chance = size.abs() * guess  # (N, I)
    total = chance.sum(1, keepdim=True)  # (N, 1)
    chance = torch.where(total > 1e-30, chance, 1.0)  # no pair counts: any will do
    drawn = torch.multinomial(chance, pairs, replacement=True, generator=generator)  # (N, J)
    weights, meeting = [], []
    for j in drawn.unbind(1):  # (N,)
        partner = j[:, None]  # (N, 1)
        distance = apart.gather(1, partner)  # (N, 1) |e_i - e_j|^2
        across = (table[i] - table[j]) / distance  # (N, D) n_ij / |e_i - e_j|
        ahead = scores.gather(1, at) - scores.gather(1, partner)  # (N, 1)
        ahead = torch.where(torch.isfinite(ahead), ahead, 0.0)
        moved = scores - ahead * (across @ table.T)  # (N, I) the scores where the two are level
        level = moved.gather(1, at)  # (N, 1)
        others = moved.scatter(1, torch.cat([at, partner], 1), -math.inf)  # (N, I)
        above = (others > level).sum(1)  # (N,) so the two hold the ranks above + 1 and above + 2
        chosen = size.gather(1, partner) * drop[above][:, None]  # (N, 1)
        odds = chance.gather(1, partner) / chance.sum(1, keepdim=True)  # (N, 1)
        weights.append(chosen / odds / distance.sqrt() / pairs)
        meeting.append(u0 - ahead * across)
    return drawn.T, weights, meeting
