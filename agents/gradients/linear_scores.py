"""The pathwise estimator where u_0 is an embedding: pairs of items priced on episodes.

Letters: B users in the batch, G episodes of each, N = B * G, D size of the diffused vector, C size of the
context, I items, K list length, J pairs drawn for each relevant item.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from agents.gradients.episodes import Rollout
from agents.gradients.rank_thresholds import list_parts
from agents.gradients.sampled_pairs import Ends, Slope, linear_slope
from agents.gradients.topk_pairs import list_slope
from refit_env.envs.problem import DenoisingProblem
from refit_env.evaluation.metrics import discounts
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.accuracy import LogRank
from refit_env.rewards.base import Reward


@dataclass
class Reading:
    """How a policy's own weights turn u_0 into scores, where they are trained: tensors with their graphs.

    Attributes:
        table: (I, D) the slope of the scores in u_0.
        context: (B, C) and (I, C), the users' contexts and the slope of the scores in them, if they have one.
        start: (B, D) the users' u_T, if weights make it.
        slopes: what ``linear_pathwise`` found, as (tensor, derivative) for ``torch.autograd.backward``.
    """

    table: Tensor
    context: tuple[Tensor, Tensor] | None = None
    start: Tensor | None = None
    slopes: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, slope: Slope, group: int, scale: float) -> None:
        """Note the derivatives of N = B * ``group`` episodes, times ``scale``."""
        self.slopes.append((self.table, slope.table * scale))
        if self.context is not None:
            told, table = self.context
            each = slope.context.view(told.shape[0], group, -1).sum(1)  # (B, C)
            self.slopes += [(told, each * scale), (table, slope.context_table * scale)]


def linear_pathwise(
    rollout: Rollout,
    policy: DiffusionPolicy,
    problem: DenoisingProblem,
    pairs: int = 4,
    generator: torch.Generator | None = None,
    scale: float = 1.0,
    reading: Reading | None = None,
    draw_lists: bool = False,
) -> Tensor:
    """The mean reward's derivative in the last step's mean, for ``torch.autograd`` to carry back.

    Args:
        rollout: N finished episodes, rolled out with ``pathwise=True``.
        policy: gives the last step's standard deviation.
        problem: gives the reward and the embeddings that score u_0.
        pairs: J.
        generator: source of the pairs drawn.
        scale: factor of the derivative.
        reading: what scores u_0, where that is trained, too: it notes its own derivatives.
        draw_lists: whether pairs are drawn for rewards of a list, too, instead of all summed at once.

    Returns:
        a tensor shaped as the last mean, (N, D), or (B, D) where a one-step chain shares it.

    Raises:
        ValueError: if the reward has a part that is neither a list reward nor ``log_rank`` of one target.
        ValueError: if scores are not linear in u_0.
    """
    table = problem.score_table
    if table is None:
        raise ValueError(f"backbone {problem.config.backbone!r} does not score u_0 by a table of embeddings")
    last, group = policy.num_steps - 1, rollout.samples_per_user
    users = rollout.users.repeat_interleave(group)  # (N,)
    mean = rollout.means[last].detach()  # (N, D) or (B, D)
    whole = mean if mean.shape[0] == users.numel() else mean.repeat_interleave(group, 0)  # (N, D)
    scores = problem.scores(rollout.u0, users)  # (N, I)
    hidden = problem.reward_fn.hidden(users)  # (N, I) bool or None
    if hidden is not None:
        scores = scores.masked_fill(hidden, -math.inf)
    out = torch.zeros_like(whole)  # (N, D)
    context = None
    if reading is not None and reading.context is not None:
        told, read_by = reading.context
        context = told.repeat_interleave(group, 0), read_by  # (N, C), (I, C)
    ends = Ends(rollout.u0, whole, scores, table, float(policy.std[last]), context)
    factor = scale / users.numel()
    for gains, discount in linear_parts(problem.reward_fn, rollout.users):
        each, moving = gains.repeat_interleave(group, 0), reading is not None  # (N, I)
        if draw_lists or discount.numel() == scores.shape[1]:  # every rank counts
            slope = linear_slope(ends, each, discount, pairs, generator, moving)
        else:
            slope = list_slope(ends, each, discount, moving)
        out.add_(slope.mean, alpha=factor)
        if reading is not None:
            reading.add(slope, group, factor)
    return out if mean.shape[0] == users.numel() else out.view(mean.shape[0], group, -1).sum(1)


def linear_parts(reward: Reward, users: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The reward as weighed gains (B, I) of ``users`` (B,) and discount (K,), one pair for each discount.

    What a swap is worth is the sum of what it is worth in the parts that discount alike.

    Raises:
        ValueError: if a part is neither a list reward nor ``log_rank`` of one target.
    """
    found: list[tuple[Tensor, Tensor]] = []
    for part, weight in reward.parts():
        gains, discount = _linear(part, users)
        same = next((worth for worth, other in found if torch.equal(other, discount)), None)
        if same is None:
            found.append((gains * weight, discount))
        else:
            same.add_(gains, alpha=weight)
    return found


def _linear(part: Reward, users: Tensor) -> tuple[Tensor, Tensor]:
    """A part's gains (B, I) of ``users`` (B,) and its discount (K,); ValueError if it has none."""
    if isinstance(part, LogRank):
        relevant = part.context.relevant
        if bool((relevant.counts(users) > 1).any()):
            raise ValueError("'log_rank' of several relevant items is no sum over them: use 'score'")
        return relevant.dense(users), discounts(part.context.num_items, part.context.device)  # (I,) no cut
    [(listed, _)] = list_parts(part)
    return listed.gains(users), listed.discount
