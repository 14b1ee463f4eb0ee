"""Runs whole chains on the torch environment and keeps the graphs of the means for the policy gradient.

Letters: B users in the batch, G episodes of each, N = B * G episodes, D size of the diffused vector,
T denoising steps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from agents.gradients.episodes import Rollout
from agents.rollouts.parts import PartDraws

if TYPE_CHECKING:
    from refit_env.backbones.base import Context
    from refit_env.envs.vector import DenoisingVectorEnv
    from refit_env.policy import DiffusionPolicy


class Noise(Enum):
    """Which episodes share the noise of a step, and that of their start where starts are drawn."""

    OF_EPISODE = "episode"
    """Each episode draws its own."""
    OF_USER = "user"
    """The episodes of a user share theirs (common random numbers)."""
    NONE = "none"
    """The chain is noise-free; starts that are drawn are shared by the episodes of a user."""


@dataclass(frozen=True)
class Graph:
    """The graph that ``torch.autograd`` keeps of a rollout."""

    steps: tuple[int, ...] | None = None
    """The steps t whose means keep a graph; None for all."""
    through_actions: bool = False
    """Whether the graph runs on through the actions (reparameterised chain), so that a gradient of the last
    mean reaches every step."""
    start: Tensor | None = None
    """(B, D) the users' u_T with the graph of the weights that compute it, for a gradient in those."""
    recompute: bool = False
    """Whether a step keeps no graph within: its network runs once more in the backward pass (Chen et al.,
    arXiv 1604.06174), with the memory of one step instead of T and the same gradients."""


def roll_out(
    policy: DiffusionPolicy,
    env: DenoisingVectorEnv,
    users: Tensor,
    *,
    generator: torch.Generator | PartDraws | None = None,
    noise: Noise = Noise.OF_EPISODE,
    share_first: bool = True,
    graph: Graph | None = None,
) -> Rollout:
    """Run one episode in each sub-environment, G = num_envs / B of them for each user.

    Args:
        policy: acts; its network must be in evaluation mode (dropout off), or the log-probabilities
            would belong to other networks than the samples.
        env: a torch-backend vector environment of B * G sub-environments and the policy's T.
        users: (B,) int64.
        generator: source of the noise, on the policy's device; ``PartDraws`` where the users are a part of
            a batch.
        noise: which episodes share it.
        share_first: compute the first mean once a user where all episodes of a user start in the same u_T
            (``start="history"``). False for measurement, or where the episodes of a user have policies of
            their own.
        graph: what is kept for the backward pass; None keeps the graph of every mean.

    Returns:
        The finished episodes.
    """
    begin = time.perf_counter()
    graph = Graph() if graph is None else graph
    total = policy.num_steps
    wanted = tuple(range(total)) if graph.steps is None else graph.steps
    group = env.num_envs // users.numel()
    out = Rollout(users=users, steps=wanted)
    share_first = share_first and not env.problem.needs_noise  # noised episodes of a user start apart
    seed = _start_seeds(env, group, noise, generator)
    observation, _ = env.reset(seed=seed, options={"user": users.repeat_interleave(group)})
    u = observation["u"][::group] if share_first else observation["u"]  # (B, D) or (N, D)
    if graph.start is not None:  # the environment's numbers, the policy's graph
        own = graph.start - graph.start.detach()  # (B, D) zeros
        u = u + own.repeat_interleave(u.shape[0] // users.numel(), 0)
    context = policy.encode(env.problem.context(users))  # (B, H) or None: a user's episodes share it
    if context is not None and not share_first:
        context = context.repeat_interleave(group)  # (N, H)
    for t in range(total):
        with torch.set_grad_enabled(torch.is_grad_enabled() and (graph.through_actions or t in wanted)):
            mean = step_mean(policy, u, t, context, graph.recompute)  # (B, D) if t = 0 and shared, or (N, D)
        out.states.append(u)
        out.means.append(mean)
        if t == 0 and share_first and group > 1:
            mean = mean.repeat_interleave(group, 0)  # (N, D)
            context = None if context is None else context.repeat_interleave(group, 0)
        drawn = _draw(mean, group, noise, generator)  # (N, D)
        kept = mean if graph.through_actions else mean.detach()
        action = torch.add(kept, drawn, alpha=float(policy.std[t]))  # (N, D)
        out.noise.append(drawn)
        _, reward, _, _, info = env.step(action.detach())
        u = action
    out.u0, out.reward = u.detach(), reward
    final = info.get("final_info", info)  # there if the environment resets itself
    out.terms, out.lists = {name: final[name] for name in env.problem.term_names}, final["top_k"]
    out.seconds = time.perf_counter() - begin
    return out


def step_mean(
    policy: DiffusionPolicy, u: Tensor, t: int, context: Context, recompute: bool = False
) -> Tensor:
    """Return the mean (B, D) of a step at vectors ``u`` (B, D), as ``DiffusionPolicy.mean``.

    With ``recompute`` its graph is made in the backward pass; no random number is drawn in it, so it can be.
    """
    if not (recompute and torch.is_grad_enabled()):
        return policy.mean(u, t, context)
    out: Tensor = checkpoint(policy.mean, u, t, context, use_reentrant=False, preserve_rng_state=False)
    return out


def _start_seeds(
    env: DenoisingVectorEnv, group: int, noise: Noise, generator: torch.Generator | PartDraws | None
) -> int | list[int] | None:
    """Seeds of the environments where starts are drawn, from ``generator``, so that a run can be repeated.

    The sub-environments of a user have one seed where they share what is drawn.
    """
    own = noise is Noise.OF_EPISODE
    if not env.problem.needs_noise or (generator is None and own):
        return None
    if isinstance(generator, PartDraws):
        seed = generator.seed(env.num_envs if own else env.num_envs // group)
    else:
        device = None if generator is None else generator.device
        seed = int(torch.randint(2**31, (), generator=generator, device=device))
    return seed if own else [seed + n // group for n in range(env.num_envs)]


def _draw(like: Tensor, group: int, noise: Noise, generator: torch.Generator | PartDraws | None) -> Tensor:
    """Return the noise of a step in the shape of ``like`` (N, D)."""
    if noise is Noise.NONE:
        return torch.zeros_like(like)
    shared = group if noise is Noise.OF_USER else 1
    rows, size = like.shape[0] // shared, like.shape[1]
    if isinstance(generator, PartDraws):
        drawn = generator.normal(rows, size, like.device)
    else:
        drawn = torch.randn((rows, size), generator=generator, device=like.device)
    return drawn if shared == 1 else drawn.repeat_interleave(shared, 0)
