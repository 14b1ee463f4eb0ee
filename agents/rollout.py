"""Roll whole chains out on the torch environment, the means' graphs kept for the policy gradient.

Letters: B users in the batch, G episodes of each, N = B * G episodes, D size of the diffused vector,
T denoising steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from refit_env.envs.vector import DenoisingVectorEnv
    from refit_env.policy import DiffusionPolicy


@dataclass
class Rollout:
    """N finished episodes.

    Attributes:
        users: (B,) int64; episode n belongs to ``users[n // G]``.
        means: T means with their graphs, (N, D) each; the first is (B, D) where a user's episodes share it.
        noise: T standard-normal draws (N, D); the action at t is ``means[t] + std[t] * noise[t]``.
        states: T vectors (N, D) that the actions were taken in, without graph; the first (B, D) where shared.
        u0: (N, D) the last action, without graph.
        reward: (N,) terminal rewards.
        terms: the reward's terms by name, (N,) each.
        lists: (N, K) int64 the rewarded lists.
        steps: the steps whose gradient is wanted; the others' means carry no graph.
    """

    users: Tensor
    means: list[Tensor] = field(default_factory=list)
    noise: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    u0: Tensor = field(default_factory=lambda: torch.empty(0))
    reward: Tensor = field(default_factory=lambda: torch.empty(0))
    terms: dict[str, Tensor] = field(default_factory=dict)
    lists: Tensor = field(default_factory=lambda: torch.empty(0))
    steps: tuple[int, ...] = ()

    @property
    def samples_per_user(self) -> int:
        """G."""
        return self.reward.numel() // self.users.numel()


def roll_out(
    policy: DiffusionPolicy,
    env: DenoisingVectorEnv,
    users: Tensor,
    *,
    generator: torch.Generator | None = None,
    steps: tuple[int, ...] | None = None,
    pathwise: bool = False,
    share_first: bool = True,
) -> Rollout:
    """Run one episode in each sub-environment, G = num_envs / B of them for each user.

    Where all episodes of a user start in the same u_T (``start="history"``), its mean is computed once.

    Args:
        policy: acts; its network must be in evaluation mode (dropout off), or the log-probabilities
            would belong to other networks than the samples.
        env: a torch-backend vector environment of B * G sub-environments and the policy's T.
        users: (B,) int64.
        generator: source of the noise, on the policy's device.
        steps: the steps t to keep a graph for; None keeps all.
        pathwise: let the graph run on through the actions (reparameterised chain), so that a gradient
            of the last mean reaches every step.
        share_first: compute the first mean once a user; off only for measurement.

    Returns:
        The finished episodes.
    """
    total = policy.num_steps
    wanted = tuple(range(total)) if steps is None else steps
    group = env.num_envs // users.numel()
    out = Rollout(users=users, steps=wanted)
    share_first = share_first and not env.problem.needs_noise  # noised episodes of a user start apart
    seed = None  # where starts are drawn: from the caller's generator, so that a run can be repeated
    if env.problem.needs_noise and generator is not None:
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    observation, _ = env.reset(seed=seed, options={"user": users.repeat_interleave(group)})
    u = observation["u"][::group] if share_first else observation["u"]  # (B, D) or (N, D)
    context = policy.encode(env.problem.context(users))  # (B, H) or None: a user's episodes share it
    if context is not None and not share_first:
        context = context.repeat_interleave(group)  # (N, H)
    for t in range(total):
        with torch.set_grad_enabled(torch.is_grad_enabled() and (pathwise or t in wanted)):
            mean = policy.mean(u, t, context)  # (B, D) if t = 0 and shared, else (N, D)
        out.states.append(u.detach())
        out.means.append(mean)
        if t == 0 and share_first:
            mean = mean.repeat_interleave(group, 0)  # (N, D)
            context = None if context is None else context.repeat_interleave(group, 0)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        action = torch.add(mean if pathwise else mean.detach(), noise, alpha=float(policy.std[t]))  # (N, D)
        out.noise.append(noise)
        _, reward, _, _, info = env.step(action.detach())
        u = action
    out.u0, out.reward = u.detach(), reward
    told = info.get("final_info", info)  # there if the environment resets itself
    out.terms, out.lists = {name: told[name] for name in env.problem.term_names}, told["top_k"]
    return out
