"""Credit: the part of a chain's reward that is due to each number of its last action.

The policy is a product of D independent Gaussians, one an item, and one scalar advantage weights them all
alike. Only a few of thousands of items could have entered or left the list; for the others that weight is
noise. The counterfactual baseline of a coordinate (action-dependent factorised baselines, arXiv 1803.07246;
COMA, arXiv 1705.08926) is the mean reward over a new draw of that coordinate alone:

    A_i = r(s) - E_{s_i' ~ N(mu_i, std^2)} [ r(s_{-i}, s_i') ].

The baseline does not depend on the coordinate's own draw, so sum_i A_i grad log pi_i has the expectation of
REINFORCE's gradient. For a list reward the expectation is exact (``agents.gradients.rank_thresholds``):

    A_i = sum_j (d_j - d_{j+1}) (g_i - g_{o_j}) (1[s_i > v_j] - Phi((mu_i - v_j) / std)).

Unlike the slope of ``agents.gradients.estimators`` it is an advantage, so it can be used in clipped ratios,
weighted regression and preferences.

Letters: B users in the batch, G episodes of each, N = B * G, D size of the diffused vector (= I items).
"""

from __future__ import annotations

import torch
from torch import Tensor

from agents.gradients.episodes import Rollout
from agents.gradients.rank_thresholds import Top, crossings, list_parts, sum_over_parts
from refit_env.envs.problem import DenoisingProblem
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.base import Reward


def check_credit(credit: str, policy: DiffusionPolicy, problem: DenoisingProblem) -> None:
    """Refuse a credit that the reward or the chain cannot give.

    Raises:
        ValueError: for ``coordinate`` where u_0 are not the item scores.
        TypeError: for ``coordinate`` where the reward is no list reward.
    """
    if credit == "coordinate":
        list_parts(problem.reward_fn)
        if policy.backbone.dim != problem.num_items:
            raise ValueError("credit 'coordinate' needs u_0 to be the item scores; use 'episode'")


def coordinate_credit(rollout: Rollout, policy: DiffusionPolicy, reward: Reward) -> Tensor:
    """Return the counterfactual advantage of each number of the last action.

    Args:
        rollout: N finished episodes.
        policy: gives the last step's standard deviation.
        reward: a list reward, or a mix of which every part is one.

    Returns:
        (N, D) float32; 0 for items that no list may hold.

    Raises:
        ValueError: if a part of the reward is no list reward.
    """
    return sum_over_parts(rollout, policy, reward, counterfactual_advantage)


def counterfactual_advantage(
    scores: Tensor, mean: Tensor, gains: Tensor, discount: Tensor, std: float, first: Top | None = None
) -> Tensor:
    """Return the reward of a list minus its mean over the draw of one item alone, for each item.

    Args:
        scores: (N, I) sampled scores; items that no list may hold are -inf.
        mean: (N, I) means of the scores.
        gains: (N, I) value of having an item in the list.
        discount: (K,) weight of each rank, non-increasing.
        std: the scores' standard deviation.
        first: the first K + 1 items of ``scores``, if they are known.

    Returns:
        (N, I) float32.

    Example:
        Two items of equal means, a list of one, item 1 relevant and drawn higher: half of the times it would
        not have been.

        >>> scores, mean = torch.tensor([[0.5, 0.6]]), torch.tensor([[0.5, 0.5]])
        >>> counterfactual_advantage(scores, mean, torch.tensor([[0.0, 1.0]]), torch.ones(1), std=0.1)
        tensor([[0.1587, 0.5000]])
    """
    out = torch.zeros_like(mean)
    for threshold, change in crossings(scores, gains, discount, first):
        above = (scores > threshold).float()  # (N, I)
        chance = torch.special.ndtr((mean - threshold) / std)  # (N, I)
        out += change * (above - chance)
    return out
