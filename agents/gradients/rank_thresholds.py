"""How a list reward depends on one item's own score: it changes where the item overtakes another.

Fix all scores but item i's. If o_j is the item at rank j among the others, with score v_j, then item i has
rank j or better when its score is above v_j, and crossing v_j changes the reward by (d_j - d_{j+1}) (g_i -
g_{o_j}), with g the gains and d the discounts. So with s_i the item's score

    r(s_i) = r(below all) + sum_j (d_j - d_{j+1}) (g_i - g_{o_j}) 1[s_i > v_j],

which estimators integrate over the item's own Gaussian noise.

Letters: B users in the batch, G episodes of each, N = B * G, I items, K list length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from agents.gradients.episodes import Rollout
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.base import ListReward, Reward


def list_parts(reward: Reward) -> list[tuple[ListReward, float]]:
    """Return the list rewards of a reward with their weights; ValueError if it has other parts."""
    found = []
    for part, weight in reward.parts():
        if not isinstance(part, ListReward):
            raise ValueError(
                f"estimators 'rao_blackwell' and 'pathwise' and credit 'coordinate' need a list reward (one "
                f"with gains and discount, as racs, r_ra or ndcg); {type(part).__name__} is none: use "
                f"estimator 'score', credit 'episode'"
            )
        found.append((part, weight))
    return found


def drops(discount: Tensor) -> Tensor:
    """Return (K,) the discount of each rank minus that of the next one, from ``discount`` (K,)."""
    return discount - torch.cat([discount[1:], discount.new_zeros(1)])


class Top(NamedTuple):
    """The first K + 1 items of each episode, or all where there are fewer.

    Attributes:
        value: (N, K + 1) their scores, descending.
        item: (N, K + 1) int64.
    """

    value: Tensor
    item: Tensor


def top(scores: Tensor, count: int, lists: Tensor | None = None) -> Top:
    """Return the first K + 1 items of each episode.

    Args:
        scores: (N, I) sampled scores; items that no list may hold are -inf.
        count: K.
        lists: (N, K) the first K items where they are known, so that nothing is sorted.
    """
    depth = min(count + 1, scores.shape[1])
    if lists is None or depth <= count:
        return Top(*scores.topk(depth, dim=1))
    value = scores.gather(1, lists)  # (N, K)
    next_value, next_item = scores.scatter(1, lists, -math.inf).max(1, keepdim=True)  # (N, 1)
    return Top(torch.cat([value, next_value], 1), torch.cat([lists, next_item], 1))


def crossings(
    scores: Tensor, gains: Tensor, discount: Tensor, first: Top | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the thresholds that an item's score can cross, and the change of the reward there.

    Args:
        scores: (N, I) sampled scores; items that no list may hold are -inf.
        gains: (N, I) value of having an item in the list.
        discount: (K,) weight of each rank, non-increasing.
        first: the first K + 1 items of ``scores``, if they are known.

    Yields:
        For each rank whose discount is larger than the next one's: (N, I) the score of the item that has it
        among the others, and (N, I) the change of the reward if another item gets it.

    Example:
        Two items, a list of one: each can overtake the other, and only item 1 is relevant.

        >>> scores, gains = torch.tensor([[0.5, 0.4]]), torch.tensor([[0.0, 1.0]])
        >>> [(threshold, change)] = crossings(scores, gains, torch.ones(1))
        >>> threshold.tolist(), change.tolist()
        ([[0.4000000059604645, 0.5]], [[-1.0, 1.0]])
    """
    value, item = top(scores, discount.numel()) if first is None else first  # (N, K + 1)
    held = gains.gather(1, item)  # (N, K + 1)
    drop = drops(discount)  # (K,)
    for j in torch.nonzero(drop[: value.shape[1] - 1]).flatten().tolist():
        # The others' rank-j item is item[j] for all that rank below it, item[j + 1] for those at or above.
        threshold, replaced = (
            column[:, j, None]
            .expand_as(scores)
            .scatter(1, item[:, : j + 1], column[:, j + 1, None].expand(-1, j + 1))
            for column in (value, held)
        )
        yield threshold, drop[j] * (gains - replaced)


Term = Callable[[Tensor, Tensor, Tensor, Tensor, float, Top], Tensor]
"""Sampled scores (N, I), means (N, I), gains (N, I), discount (K,), standard deviation, the first items -> a
term of each item's own draw (N, I)."""


def sum_over_parts(
    rollout: Rollout, policy: DiffusionPolicy, reward: Reward, term: Term, scale: float = 1.0
) -> Tensor:
    """Return a term of each number of the last action, summed over the weighted parts of a list reward.

    Args:
        rollout: N finished episodes whose u_0 are the item scores.
        policy: gives the last step's standard deviation.
        reward: a list reward, or a mix of which every part is one.
        term: of one part.
        scale: factor of the sum.

    Returns:
        (N, I) float32; 0 for items that no list may hold.

    Raises:
        ValueError: if a part of the reward is no list reward.
    """
    last = policy.num_steps - 1
    mean, std = rollout.of_each(rollout.means[last].detach()), float(policy.std[last])  # (N, I)
    hidden = reward.hidden(rollout.users)  # (B, I) bool or None
    hidden = None if hidden is None else rollout.of_each(hidden)  # (N, I)
    scores = rollout.u0 if hidden is None else rollout.u0.masked_fill(hidden, -math.inf)  # (N, I)
    first = top(scores, reward.k, rollout.lists if rollout.lists.numel() else None)
    out = torch.zeros_like(mean)
    for part, share in list_parts(reward):
        gains = rollout.of_each(part.gains(rollout.users))  # (N, I)
        out.add_(term(scores, mean, gains, part.discount, std, first), alpha=share * scale)
    return out if hidden is None else out.masked_fill_(hidden, 0.0)
