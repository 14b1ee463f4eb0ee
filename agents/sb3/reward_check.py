"""Checks that rewards are finite, before an algorithm learns from them.

Letters: N sub-environments, B users, D size of the diffused vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv

PROBED = 256
"""Number of users whose reward is checked before training."""


def check_reward(env: VectorEnv[Any, Any, Any]) -> None:
    """Raise an error if a denoising environment's reward is not finite at the start vectors of chains.

    The environment is not stepped, because its reward is a function of the last vector. Environments of other
    kinds are not checked.

    Raises:
        ValueError: naming user, value and terms.
    """
    problem = getattr(env.unwrapped, "problem", None)
    if problem is None:
        return
    users = torch.as_tensor(problem.users[:PROBED], device=problem.device)  # (B,)
    start = problem.initial_state(users)  # (B, D)
    reward, terms, _ = problem.score(start, users)  # (B,)
    wrong = (~torch.isfinite(reward)).nonzero().flatten()
    if wrong.numel():
        i = int(wrong[0])
        whose = problem.dataset.users_by_id.named(int(users[i]))
        found = ", ".join(f"{name} {float(value[i]):g}" for name, value in terms.items())
        raise ValueError(
            f"the reward of {whose} is {float(reward[i])} at the start vector of its chain "
            f"(terms: {found or 'none'}): rewards must be finite. Correct the reward function"
        )


def refuse_nonfinite_rewards(
    rewards: npt.NDArray[Any], done: npt.NDArray[np.bool_], info: Mapping[str, Any]
) -> None:
    """Raise an error for NaN or infinity in the rewards of a step.

    Args:
        rewards: (N,).
        done: (N,) where episodes ended.
        info: the step's info, which names the users of finished episodes.

    Raises:
        ValueError: naming the first sub-environment, its user if known, and the value.
    """
    if np.isfinite(rewards).all():
        return
    i = int(np.flatnonzero(~np.isfinite(rewards))[0])
    users = info.get("final_info", info).get("user")
    whose = f" (user {int(users[i])})" if users is not None and done[i] else ""
    raise ValueError(
        f"the reward of sub-environment {i}{whose} is {rewards[i]}: rewards must be finite. "
        "Correct the reward function, or the wrapper that changes rewards"
    )
