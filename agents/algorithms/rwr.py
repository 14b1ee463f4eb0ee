"""Reward- and advantage-weighted regression of the denoiser on its own chains (RWR, AWR, AWM).

The model regresses on the vectors u_0 that it sampled itself, each weighted by its reward:

    L = E_n E_k [ 1/D sum_i w_ni (x0_theta(state_nk, k)_i - u_0,ni)^2 / (2 std^2) ]

which is the ELBO of training with a weight, at a random step k for each chain, instead of the likelihood of
every step that was taken (DDPO). The loss does not contain the chain's own noise, so it varies less (AWM).
The weights:

- ``advantage``: w = A, which may be negative. E[A] = 0, so terms that do not depend on the sample's own draw,
  such as the distance between the prediction at another state and the last mean, vanish in expectation.
- ``exp_advantage``: w = exp(A / temperature), scaled to a mean of 1 (AWR, arXiv 1910.00177).
- ``exp_reward``: w = exp(r / temperature), scaled to a mean of 1 (RWR; compared with DDPO in arXiv
  2305.13301).

With ``credit="coordinate"`` each number of u_0 has an advantage of its own
(``agents.gradients.counterfactual_advantage``), and numbers that could not have changed the list have weight
0. Where the prediction is the policy's last mean (a chain of one step), the gradient of ``advantage`` is
REINFORCE's, and that of ``exp_reward`` is the gradient of log E[exp(r / temperature)].

Letters: B users in the batch, G episodes of each, N = B * G, D size of the diffused vector, T steps.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from agents.algorithms.configs import RWRConfig
from agents.gradients.counterfactual_advantage import check_credit, coordinate_credit
from agents.gradients.episodes import Rollout
from agents.training.config import TrainerConfig
from agents.training.fine_tuner import FineTuner


class RewardWeighted(FineTuner):
    """Reward-weighted regression on the policy's own samples.

    Example:
        >>> from agents import RewardWeighted
        >>> from refit_env.policy import DiffusionPolicy  # doctest: +SKIP
        >>> policy = DiffusionPolicy.load("runs/pretrained")  # doctest: +SKIP
        >>> RewardWeighted(policy, "ReFiT-ML1M-v0").learn("runs/finetuned")  # doctest: +SKIP
    """

    name: ClassVar[str] = "rwr"
    config_class: ClassVar[type[TrainerConfig]] = RWRConfig
    config: RWRConfig

    def check_settings(self) -> None:
        """Refuse rewards and policies without weights.

        Raises:
            ValueError: for a deterministic policy.
            ValueError: for credit ``coordinate`` and a reward that is no list reward.
        """
        check_credit(self.config.credit, self.policy, self.env.problem)
        self.require_noise("all samples equal the mean")

    def update(self, users: Tensor) -> dict[str, float]:
        """Roll out, weight the samples, and regress on them."""
        with torch.no_grad():
            rollout = self.roll_out(users)
            weight = self._weights(rollout)  # (N, 1) or (N, D)
        losses, norms = [], []
        for _ in range(self.config.regressions):
            state, k, context = self._states(rollout)
            step, condition = self.policy.diffusion.network_timestep(k), self.policy.encode(context)
            x0 = self.policy.backbone.predict_x0(state, step, condition)  # (N, D)
            error = (x0 - rollout.u0) / self.policy.std[-1]  # (N, D)
            loss = 0.5 * (weight * error.square()).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            losses.append(float(loss.detach()))
            norms.append(self.take_step())
        scalars = rollout.scalars(self.env.problem.num_items)
        scalars |= {"train/loss": sum(losses) / len(losses), "train/gradient_norm": sum(norms) / len(norms)}
        return scalars | {"train/effective_share": effective_share(weight)}

    def _weights(self, rollout: Rollout) -> Tensor:
        """Return (N, 1) or (N, D) the weight of each sampled number."""
        config = self.config
        if config.weighting == "exp_reward":
            return exponential(rollout.reward[:, None], config.temperature)  # (N, 1)
        if config.credit == "coordinate":
            advantage = coordinate_credit(rollout, self.policy, self.env.problem.reward_fn)  # (N, D)
        else:
            advantage = rollout.advantage(config.baseline).reshape(-1, 1)  # (N, 1)
        return advantage if config.weighting == "advantage" else exponential(advantage, config.temperature)

    def _states(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the states (N, D) at random steps k (N,), and their contexts."""
        rows = rollout.u0.shape[0]
        k = torch.randint(
            self.policy.num_steps, (rows,), generator=self.noise_generator, device=self.device
        )  # (N,)
        context = self.context_of(rollout, rows)
        if self.config.states == "chain":
            step = self.policy.timestep(k)  # (N,) the episode's t
            visited = torch.empty_like(rollout.u0)  # (N, D)
            for t, states in enumerate(rollout.states):
                visited[step == t] = rollout.of_each(states)[step == t]
            return visited, k, context
        clean = rollout.u0
        if self.config.states == "history":
            clean = rollout.of_each(self.env.problem.initial_state(rollout.users))  # (N, D)
        noise = torch.randn(clean.shape, generator=self.noise_generator, device=self.device)  # (N, D)
        return self.policy.diffusion.q_sample(clean, k, noise), k, context


def exponential(value: Tensor, temperature: float) -> Tensor:
    """Return the weights exp(value / temperature), scaled to a mean of 1, in the shape of ``value``.

    Example:
        >>> exponential(torch.tensor([0.0, 0.0, 0.0]), 0.1).tolist()
        [1.0, 1.0, 1.0]
    """
    weight = torch.exp((value - value.max()) / temperature)  # at most 1, so nothing overflows
    return weight / weight.mean()


def effective_share(weight: Tensor) -> float:
    """Kish's effective sample size over the number of weights: 1 if all are alike, 1 / n if one is all."""
    total = weight.abs().sum().square()
    return float(total / (weight.square().sum() * weight.numel()).clamp(min=1e-30))
