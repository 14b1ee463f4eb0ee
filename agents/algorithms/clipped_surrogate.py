"""The clipped surrogate of importance-sampled policy gradients, on a denoising chain.

One batch of chains is used for several updates (PPO, arXiv 1707.06347; DDPO_IS, 2305.13301). At each step t
the ratio of the new and the old policy's probability of the old action weights the advantage; it is clipped
to 1 - c .. 1 + c:

    L = E[ sum_t min(rho_t A, clip(rho_t, 1 - c, 1 + c) A) ] - kl_weight * KL(pi || pretrained)

With ``credit="episode"`` rho_t is one number a step, of the log-probability averaged over D (as DDPO's code
has it; the sum would overflow) or summed, and A the chain's advantage. With ``credit="coordinate"`` the last
step, which decides the list, has a ratio and a counterfactual advantage for each of its D numbers
(``agents.gradients.counterfactual_advantage``): the policy is a product of D Gaussians, and each factor is
clipped by itself. The gradient reaches earlier steps through the chain: the transition is known, so with the
noise fixed, u_{t+1} = mean_t + std_t eps_t is a function of the weights, and so is the last mean.

Both standard deviations are the same, so with delta = (mean_old - mean_new) / std and the old noise eps

    log rho = -(delta eps + delta^2 / 2)    for each number,

which is exact; the difference of two log-probabilities of thousands of numbers would lose digits.

Letters: B users in the batch, G episodes of each, N = B * G, n of them in a minibatch, D size of the vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agents.algorithms.configs import SurrogateConfig
from agents.gradients.counterfactual_advantage import check_credit, coordinate_credit
from agents.gradients.episodes import Rollout
from agents.rollouts.rollout import Graph
from agents.training.config import TrainerConfig
from agents.training.fine_tuner import FineTuner
from agents.training.step_subset import trained_steps


@dataclass
class _Batch:
    """Finished chains, ready to be used several times; rows are users."""

    rollout: Rollout
    advantage: Tensor  # (B, G)
    credit: Tensor | None  # (B, G, D) of the last step
    noise: dict[int, Tensor]  # by step, (B, G, D)
    states: dict[int, Tensor]  # by step, (B, 1 or G, D)
    old: dict[int, Tensor]  # by step, (B, 1 or G, D) the means that acted


class ClippedSurrogate(FineTuner):
    """Maximises the clipped surrogate on chains rolled out without a graph; subclasses set defaults."""

    config_class: ClassVar[type[TrainerConfig]] = SurrogateConfig
    config: SurrogateConfig

    def check_settings(self) -> None:
        """Refuse rewards and policies without a surrogate.

        Raises:
            ValueError: for a deterministic policy.
            ValueError: for credit ``coordinate`` and a reward that is no list reward.
        """
        check_credit(self.config.credit, self.policy, self.env.problem)
        self.require_noise("there is no probability ratio")

    def update(self, users: Tensor) -> dict[str, float]:
        """Roll out once, then maximise the surrogate: ``epochs`` passes of ``minibatches`` updates."""
        batch = self._collect(users)
        scalars = batch.rollout.scalars(self.env.problem.num_items)
        sums: dict[str, float] = {}
        updates = 0
        for left in range(self.config.epochs - 1, -1, -1):
            order = torch.randperm(users.numel(), generator=self.user_generator).to(self.device)
            for rows in torch.tensor_split(order, self.config.minibatches):
                if rows.numel() == 0:
                    continue
                found = self._ascend_surrogate(batch, rows)
                sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
                updates += 1
            if left and 0 < self.config.target_kl < self._moved(batch):
                break
        return scalars | {name: value / updates for name, value in sums.items()} | {"train/updates": updates}

    def _collect(self, users: Tensor) -> _Batch:
        """Return the chains of ``users`` (B,) and their advantages."""
        steps = trained_steps(self.config.train_steps, self.policy.num_steps, self.user_generator)
        with torch.no_grad():
            rollout = self.roll_out(users, graph=Graph(steps))
        rows, dim = users.numel(), self.policy.backbone.dim
        advantage = rollout.advantage(self.config.baseline)  # (B, G)
        if self.config.advantage_clip:
            advantage = advantage.clamp(-self.config.advantage_clip, self.config.advantage_clip)
        credit = None
        if self.config.credit == "coordinate":
            credit = coordinate_credit(rollout, self.policy, self.env.problem.reward_fn).view(rows, -1, dim)
        return _Batch(
            rollout,
            advantage,
            credit,
            {t: rollout.noise[t].view(rows, -1, dim) for t in steps},
            {t: rollout.states[t].view(rows, -1, dim) for t in steps},
            {t: rollout.means[t].view(rows, -1, dim) for t in steps},
        )

    def _ascend_surrogate(self, batch: _Batch, rows: Tensor) -> dict[str, float]:
        """One update on the users at ``rows`` (b,) of the batch."""
        self.optimizer.zero_grad(set_to_none=True)
        found = {"train/approx_kl": 0.0, "train/clip_fraction": 0.0, "train/surrogate": 0.0}
        through: Tensor | None = None  # (b, G, D) where the chain is a function of the weights
        objective = torch.zeros((), device=self.device)
        for t in batch.noise:
            state = batch.states[t][rows] if through is None else through  # (b, 1 or G, D)
            mean = self._mean(state, t, batch.rollout.users[rows])  # (b, 1 or G, D)
            if self.config.kl_weight:
                away = self._divergence_at(state, mean, t, batch.rollout.users[rows])
                objective = objective - self.config.kl_weight * away
            if batch.credit is not None and t < self.policy.num_steps - 1:
                through = mean + self.policy.std[t] * batch.noise[t][rows]
                continue
            delta = (batch.old[t][rows] - mean) / self.policy.std[t]  # (b, 1 or G, D)
            log_ratio = -(delta * batch.noise[t][rows] + 0.5 * delta.square())  # (b, G, D)
            advantage = batch.advantage[rows]  # (b, G)
            if batch.credit is not None:
                advantage = batch.credit[rows]  # (b, G, D)
            elif self.config.logprob_reduction == "mean":
                log_ratio = log_ratio.mean(2)
            else:
                log_ratio = log_ratio.sum(2)
            gain, cut = clipped_gain(log_ratio, advantage, self.config.clip_range)
            (-(objective + gain.mean())).backward()
            objective = torch.zeros((), device=self.device)
            share = 1.0 if batch.credit is not None else 1.0 / len(batch.noise)
            found["train/surrogate"] += float(gain.detach().mean())
            found["train/approx_kl"] += 0.5 * float(delta.detach().square().mean()) * share
            found["train/clip_fraction"] += float(cut) * share
        return found | {"train/gradient_norm": self.take_step()}

    @torch.no_grad()
    def _moved(self, batch: _Batch) -> float:
        """KL of the batch's own policy to the policy as it is now: mean over chains, numbers and steps."""
        total, users = 0.0, batch.rollout.users
        for t, old in batch.old.items():
            for rows in torch.arange(users.numel(), device=self.device).tensor_split(self.config.minibatches):
                if rows.numel():
                    mean = self._mean(batch.states[t][rows], t, users[rows])  # (b, 1 or G, D)
                    gap = (old[rows] - mean) / self.policy.std[t]
                    total += 0.5 * float(gap.square().mean()) * rows.numel()
        return total / (users.numel() * len(batch.old))

    def _divergence_at(self, state: Tensor, mean: Tensor, t: int, users: Tensor) -> Tensor:
        """KL(pi || pretrained) at ``state``, where the policy's is ``mean``; over D as chains' ratios are."""
        anchor = self._mean(state, t, users, reference=True)
        each = 0.5 * ((mean - anchor) / self.policy.std[t]).square()  # (b, 1 or G, D)
        summed = self.config.credit == "episode" and self.config.logprob_reduction == "sum"
        return each.sum(2).mean() if summed else each.mean()

    def _mean(self, states: Tensor, t: int, users: Tensor, *, reference: bool = False) -> Tensor:
        """Return the means (b, g, D) at ``states`` (b, g, D) of ``users`` (b,); or the frozen policy's."""
        flat = states.flatten(0, 1)  # (n, D)
        context = self.env.problem.context(users.repeat_interleave(states.shape[1]))
        actor = self.reference if reference else self.policy
        return actor.mean(flat, t, context).view_as(states)


def clipped_gain(log_ratio: Tensor, advantage: Tensor, clip_range: float) -> tuple[Tensor, Tensor]:
    """Return PPO's clipped objective (Eq. 7 of arXiv 1707.06347), and how often it was clipped.

    Args:
        log_ratio: any shape, log of new over old probability.
        advantage: the same shape.
        clip_range: c.

    Returns:
        min(rho A, clip(rho, 1 - c, 1 + c) A), and the share of entries with an advantage whose ratio is
        clipped.

    Example:
        >>> gain, cut = clipped_gain(torch.tensor([0.5, 0.0]).log1p(), torch.tensor([2.0, -1.0]), 0.2)
        >>> gain.tolist(), float(cut)
        ([2.4000000953674316, -1.0], 0.5)
    """
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    matters = advantage != 0.0
    cut = ((ratio - clipped).abs() > 0) & matters
    return torch.minimum(ratio * advantage, clipped * advantage), cut.sum() / matters.sum().clamp(min=1)
