"""Roll whole chains out on the torch environment, the means' graphs kept for the policy gradient.

Letters: B users in the batch, G episodes of each, N = B * G episodes, D size of the diffused vector,
T denoising steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from agents.gradients.episodes import Rollout

if TYPE_CHECKING:
    from refit_env.backbones.base import Context
    from refit_env.envs.vector import DenoisingVectorEnv
    from refit_env.policy import DiffusionPolicy


def roll_out(
    policy: DiffusionPolicy,
    env: DenoisingVectorEnv,
    users: Tensor,
    *,
    generator: torch.Generator | None = None,
    steps: tuple[int, ...] | None = None,
    pathwise: bool = False,
    share_first: bool = True,
    noise: str = "episode",
    start: Tensor | None = None,
    recompute: bool = False,
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
        share_first: compute the first mean once a user; off for measurement, or where a user's episodes are
            different policies'.
        noise: ``episode``: each draws its own; ``user``: a user's episodes share theirs (common random
            numbers); ``none``: the noise-free chain. Where starts are drawn, a user's episodes share that,
            too, but for ``episode``.
        start: (B, D) the users' u_T with the graph of the weights that make it, for a gradient in those.
        recompute: keep no graph within a step; its network runs once more in the backward pass (Chen et al.,
            arXiv 1604.06174). Memory of one step instead of T, the same gradients.

    Returns:
        The finished episodes.
    """
    total = policy.num_steps
    wanted = tuple(range(total)) if steps is None else steps
    group = env.num_envs // users.numel()
    out = Rollout(users=users, steps=wanted)
    share_first = share_first and not env.problem.needs_noise  # noised episodes of a user start apart
    seed = _start_seeds(env, group, noise, generator)
    observation, _ = env.reset(seed=seed, options={"user": users.repeat_interleave(group)})
    u = observation["u"][::group] if share_first else observation["u"]  # (B, D) or (N, D)
    if start is not None:  # the environment's numbers, the policy's graph
        u = u + (start - start.detach()).repeat_interleave(u.shape[0] // users.numel(), 0)
    context = policy.encode(env.problem.context(users))  # (B, H) or None: a user's episodes share it
    if context is not None and not share_first:
        context = context.repeat_interleave(group)  # (N, H)
    for t in range(total):
        with torch.set_grad_enabled(torch.is_grad_enabled() and (pathwise or t in wanted)):
            mean = step_mean(policy, u, t, context, recompute)  # (B, D) if t = 0 and shared, else (N, D)
        out.states.append(u)
        out.means.append(mean)
        if t == 0 and share_first:
            mean = mean.repeat_interleave(group, 0)  # (N, D)
            context = None if context is None else context.repeat_interleave(group, 0)
        drawn = _draw(mean, group, noise, generator)  # (N, D)
        action = torch.add(mean if pathwise else mean.detach(), drawn, alpha=float(policy.std[t]))  # (N, D)
        out.noise.append(drawn)
        _, reward, _, _, info = env.step(action.detach())
        u = action
    out.u0, out.reward = u.detach(), reward
    told = info.get("final_info", info)  # there if the environment resets itself
    out.terms, out.lists = {name: told[name] for name in env.problem.term_names}, told["top_k"]
    return out


def step_mean(
    policy: DiffusionPolicy, u: Tensor, t: int, context: Context, recompute: bool = False
) -> Tensor:
    """The mean (B, D) of a step at vectors ``u`` (B, D), as ``DiffusionPolicy.mean``.

    With ``recompute`` its graph is made in the backward pass; no random number is drawn in it, so it can be.
    """
    if not (recompute and torch.is_grad_enabled()):
        return policy.mean(u, t, context)
    out: Tensor = checkpoint(policy.mean, u, t, context, use_reentrant=False, preserve_rng_state=False)
    return out


def _start_seeds(
    env: DenoisingVectorEnv, group: int, noise: str, generator: torch.Generator | None
) -> int | list[int] | None:
    """Seeds of the environments where starts are drawn, from ``generator``, so that a run can be repeated.

    The sub-environments of a user have one seed where they are to share what is drawn.
    """
    if not env.problem.needs_noise or (generator is None and noise == "episode"):
        return None
    device = None if generator is None else generator.device
    seed = int(torch.randint(2**31, (), generator=generator, device=device))
    return seed if noise == "episode" else [seed + n // group for n in range(env.num_envs)]


def _draw(like: Tensor, group: int, noise: str, generator: torch.Generator | None) -> Tensor:
    """The noise of a step in the shape of ``like`` (N, D), see ``roll_out``."""
    if noise == "none":
        return torch.zeros_like(like)
    if noise == "user":
        some = torch.randn((like.shape[0] // group, like.shape[1]), generator=generator, device=like.device)
        return some.repeat_interleave(group, 0)
    return torch.randn(like.shape, generator=generator, device=like.device)
