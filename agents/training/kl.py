"""The divergence of a policy from the pretrained one.

Letters: B users, D size of the diffused vector, T steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from refit_env.envs.problem import DenoisingProblem
from refit_env.policy import DiffusionPolicy

DIVERGENCE_USERS = 128
"""Users over which the divergence from the pretrained policy is averaged."""
NUMBERS = 2**24
"""Most numbers of the compared vectors: fewer users are compared where vectors are very long."""


def divergence(
    policy: DiffusionPolicy,
    reference: DiffusionPolicy,
    problem: DenoisingProblem,
    users: Tensor | None = None,
) -> float:
    """Return the mean over users of sum_t KL(policy || reference) / D along the policy's noise-free chain.

    Args:
        policy: whose chain is run.
        reference: of the same network and T; usually the frozen pretrained policy.
        problem: gives starting states and contexts.
        users: (n,) int64, of whom the first 128 are used, fewer where D is above 131,072; None uses those
            that episodes are about.
    """
    return compared_chains(policy, reference, problem, users)[0]


@torch.no_grad()
def compared_chains(
    policy: DiffusionPolicy,
    reference: DiffusionPolicy,
    problem: DenoisingProblem,
    users: Tensor | None = None,
) -> tuple[float, Tensor, Tensor]:
    """Return the divergence with the chains that it was measured along.

    Args:
        policy: whose chain is run.
        reference: of the same network and T.
        problem: gives starting states and contexts.
        users: (n,) int64, of whom the first 128 are used, fewer where D is above 131,072; None uses those
            that episodes are about.

    Returns:
        The mean of ``divergence``, the last vectors u_0 (B, D), and their users (B,).
    """
    chosen = torch.as_tensor(problem.users) if users is None else users
    most = max(1, min(DIVERGENCE_USERS, NUMBERS // problem.dim))
    chosen = chosen[:most].to(problem.device)  # (B,)
    u = problem.initial_state(chosen).to(policy.device)  # (B, D)
    context, total = problem.context(chosen), 0.0
    for t in range(policy.num_steps):
        mean = policy.mean(u, t, context)  # (B, D)
        gap = (mean - reference.mean(u, t, context)) / policy.std[t].clamp(min=1e-12)  # (B, D)
        total += float(0.5 * gap.square().mean())
        u = mean
    return total, u, chosen
