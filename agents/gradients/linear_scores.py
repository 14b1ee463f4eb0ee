"""The pathwise estimator where u_0 is an embedding: pairs of items compared on episodes.

Letters: B users in the batch, G episodes of each, N = B * G, D size of the diffused vector, C size of the
context, I items, K list length, J pairs drawn for each relevant item.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.gradients.episodes import Rollout, Slopes
from agents.gradients.rank_thresholds import list_parts
from agents.gradients.sampled_pairs import Ends, Slope, linear_slope
from agents.gradients.topk_pairs import list_slope
from refit_env.envs.problem import DenoisingProblem
from refit_env.evaluation.metrics import discounts
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.accuracy import LogRank
from refit_env.rewards.base import Reward


@dataclass(frozen=True)
class TrainedScores:
    """The score weights of a policy that trains them, too: tensors with the graphs of its weights.

    Attributes:
        table: (I, D) the slope of the scores in u_0.
        context: (B, C) and (I, C), the users' contexts and the slope of the scores in them, if they have one;
            a 1 for every user where the scores have an offset.
        start: (B, D) the users' u_T, if weights compute it.
    """

    table: Tensor
    context: tuple[Tensor, Tensor] | None = None
    start: Tensor | None = None

    def slopes(self, slope: Slope, group: int, scale: float) -> Slopes:
        """The tensors with their derivatives, those of B * ``group`` episodes summed and times ``scale``."""
        out = [(self.table, slope.table * scale)]
        if self.context is not None:
            context, table = self.context
            if context.requires_grad:
                each = slope.context.view(context.shape[0], group, -1).sum(1)  # (B, C)
                out.append((context, each * scale))
            out.append((table, slope.context_table * scale))
        return out


@dataclass(frozen=True)
class PairDraws:
    """How pairs of items are drawn where not all of them are summed."""

    count: int = 4
    """J, pairs for each relevant item of an episode."""
    generator: torch.Generator | None = None
    """Draws them."""
    for_lists: bool = False
    """Whether they are drawn for rewards of a list, too, instead of all summed at once."""


def linear_pathwise(
    rollout: Rollout,
    policy: DiffusionPolicy,
    problem: DenoisingProblem,
    *,
    draws: PairDraws | None = None,
    trained: TrainedScores | None = None,
    scale: float = 1.0,
) -> Slopes:
    """Return the mean reward's derivative in the last step's mean and in the score weights that are trained.

    Args:
        rollout: N finished episodes, whose graph runs through the actions.
        policy: gives the last step's standard deviation.
        problem: gives the reward and the embeddings that score u_0.
        draws: how pairs are drawn; None for the defaults.
        trained: the score weights, if they are trained, too.
        scale: factor of the derivatives.

    Returns:
        The last mean, and the tensors of ``trained``, with their derivatives.

    Raises:
        ValueError: if the reward has a part that is neither a list reward nor ``log_rank`` of one target.
        ValueError: if scores are not linear in u_0.
    """
    draws = PairDraws() if draws is None else draws
    ends = _ends(rollout, policy, problem, trained)
    last, count = policy.num_steps - 1, ends.u0.shape[0]
    factor, moving = scale / count, trained is not None
    total, others = torch.zeros_like(ends.mean), Slopes()  # (N, D)
    for gains, discount in linear_parts(problem.reward_fn, rollout.users):
        each = rollout.of_each(gains)  # (N, I)
        if draws.for_lists or discount.numel() == each.shape[1]:  # every rank counts
            slope = linear_slope(ends, each, discount, draws.count, draws.generator, moving)
        else:
            slope = list_slope(ends, each, discount, moving)
        total.add_(slope.mean, alpha=factor)
        if trained is not None:
            others += trained.slopes(slope, rollout.samples_per_user, factor)
    return [(rollout.means[last], rollout.of_shared(total, last)), *others]


def _ends(
    rollout: Rollout, policy: DiffusionPolicy, problem: DenoisingProblem, trained: TrainedScores | None
) -> Ends:
    """Return the last steps of a rollout, and how their u_0 are scored."""
    table = problem.score_table
    if table is None:
        raise ValueError(f"backbone {problem.config.backbone!r} does not score u_0 by a table of embeddings")
    last, users = policy.num_steps - 1, rollout.of_each(rollout.users)  # (N,)
    scores = problem.scores(rollout.u0, users)  # (N, I)
    hidden = problem.reward_fn.hidden(users)  # (N, I) bool or None
    if hidden is not None:
        scores = scores.masked_fill(hidden, -math.inf)
    context = None
    if trained is not None and trained.context is not None:
        context = rollout.of_each(trained.context[0]), trained.context[1]  # (N, C), (I, C)
    mean = rollout.of_each(rollout.means[last].detach())  # (N, D)
    return Ends(rollout.u0, mean, scores, table, float(policy.std[last]), context)


def linear_parts(reward: Reward, users: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The reward as weighed gains (B, I) of ``users`` (B,) and discount (K,), one pair for each discount.

    The change of the reward by a swap is the sum of the changes of the parts with equal discounts.

    Raises:
        ValueError: if a part is neither a list reward nor ``log_rank`` of one target.
    """
    found: list[tuple[Tensor, Tensor]] = []
    for part, weight in reward.parts():
        gains, discount = _linear(part, users)
        same = next((total for total, other in found if torch.equal(other, discount)), None)
        if same is None:
            found.append((gains * weight, discount))
        else:
            same.add_(gains, alpha=weight)
    return found


def _linear(part: Reward, users: Tensor) -> tuple[Tensor, Tensor]:
    """Return a part's gains (B, I) of ``users`` (B,) and its discount (K,); ValueError if it has none."""
    if isinstance(part, LogRank):
        relevant = part.context.relevant
        if bool((relevant.counts(users) > 1).any()):
            raise ValueError("'log_rank' of several relevant items is no sum over them: use 'score'")
        return relevant.dense(users), discounts(part.context.num_items, part.context.device)  # (I,) no cut
    [(listed, _)] = list_parts(part)
    return listed.gains(users), listed.discount
