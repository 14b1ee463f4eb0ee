"""What stands around an environment, checked: time limits and wrappers under which it could not work.

Letters: T steps.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorWrapper
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import (
    DictInfoToList,
    NormalizeReward,
    RecordEpisodeStatistics,
    VectorizeTransformAction,
    VectorizeTransformObservation,
    VectorizeTransformReward,
)

from refit_env.utils.callers import argument_of_caller, running_objects

ARRAYS_ONLY = (DictInfoToList, NormalizeReward, RecordEpisodeStatistics)
"""Gymnasium's vector wrappers that compute with NumPy arrays of rewards, flags or infos."""
VECTORIZED = (VectorizeTransformAction, VectorizeTransformObservation, VectorizeTransformReward)
"""Those that loop over sub-environments: tensors on a CPU pass, unless they write back into them."""
CONVERSIONS = ("ArrayConversion", "NumpyToTorch", "JaxToTorch", "JaxToNumpy")
"""Names of those above which values are no longer the environment's; their import needs array-api-compat."""


def check_limit(limit: int | None, num_steps: int) -> None:
    """Refuse a time limit below T: a chain is paid at its end alone.

    Args:
        limit: ``max_episode_steps``; None and -1, as ``gym.make`` has it, are no limit.
        num_steps: T.

    Raises:
        ValueError: naming both.
    """
    if limit is not None and limit != -1 and limit < num_steps:
        raise ValueError(
            f"max_episode_steps={limit}: a chain ends by itself, after T={num_steps} steps, and is paid "
            f"there. Leave max_episode_steps out; for shorter chains pass num_steps={max(limit, 1)}"
        )


def check_maker(num_steps: int) -> None:
    """Refuse a ``gym.make(id, max_episode_steps=...)`` below T; for an environment's constructor to call.

    ``gym.make`` keeps that argument for a wrapper of its own.

    Raises:
        ValueError: see ``check_limit``.
    """
    check_limit(argument_of_caller(gym.make, "max_episode_steps", depth=2), num_steps)


def check_single_wrappers(env: gym.Env[Any, Any], num_steps: int) -> None:
    """Refuse a ``TimeLimit`` below T around a single environment; for its ``reset`` to call.

    Raises:
        ValueError: see ``check_limit``.
    """
    for wrapper in running_objects(TimeLimit, "reset"):
        if wrapper.unwrapped is env:
            check_limit(getattr(wrapper, "_max_episode_steps", None), num_steps)


def check_tensor_wrappers(env: gym.vector.VectorEnv[Any, Any, Any], on_cpu: bool) -> None:
    """Refuse wrappers that cannot work with tensors around a vector environment; for its ``reset`` to call.

    Args:
        env: with ``backend="torch"``.
        on_cpu: whether NumPy can read its tensors.

    Raises:
        ValueError: naming the wrapper, and what to use.
    """
    for wrapper in running_objects(VectorWrapper, "reset"):
        if wrapper.unwrapped is not env:
            continue
        name = type(wrapper).__name__
        if name in CONVERSIONS:
            return
        writes = isinstance(wrapper, VECTORIZED) and (not on_cpu or getattr(wrapper, "same_out", False))
        if writes or isinstance(wrapper, ARRAYS_ONLY):
            raise ValueError(
                f"{name} computes with NumPy arrays, and backend='torch' gives tensors: make the environment "
                "with backend='numpy', or put gymnasium.wrappers.vector.ArrayConversion(envs, env_xp=torch, "
                f"target_xp=numpy) beneath {name}. docs/wrappers.md lists which wrapper goes with which "
                "backend"
            )
