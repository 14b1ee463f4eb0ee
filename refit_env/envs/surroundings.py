"""Checks of the time limits and wrappers around an environment, some of which it cannot work in.

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

from refit_env.settings import check_setting
from refit_env.utils.callers import argument_of_caller, running_objects

ARRAYS_ONLY = (DictInfoToList, NormalizeReward, RecordEpisodeStatistics)
"""Gymnasium's vector wrappers that need NumPy arrays of rewards, flags or infos."""
VECTORIZED = (VectorizeTransformAction, VectorizeTransformObservation, VectorizeTransformReward)
"""Vector wrappers that loop over sub-environments: they take tensors on a CPU, but cannot write to them."""
CONVERSIONS = ("ArrayConversion", "NumpyToTorch", "JaxToTorch", "JaxToNumpy")
"""Names of the wrappers that convert values, so that wrappers outside them never see the environment's.
Their import needs array-api-compat."""


def check_limit(limit: int | None, num_steps: int) -> None:
    """Raise an error for a time limit below T, because a chain is rewarded at its end only.

    Args:
        limit: ``max_episode_steps``; None and -1 (a value of ``gym.make``) are no limit.
        num_steps: T.

    Raises:
        ValueError: naming both; for a limit that is no whole number, naming it.
    """
    check_setting("max_episode_steps", limit, int | None)
    if limit is not None and limit != -1 and limit < num_steps:
        raise ValueError(
            f"max_episode_steps={limit}: a chain ends by itself after T={num_steps} steps, with its only "
            f"reward. Omit max_episode_steps; for shorter chains pass num_steps={max(limit, 1)}"
        )


def check_maker(num_steps: int) -> None:
    """Raise an error for ``gym.make(id, max_episode_steps=...)`` below T; the constructor calls it.

    ``gym.make`` does not pass that argument on: it adds a wrapper.

    Raises:
        ValueError: see ``check_limit``.
    """
    check_limit(argument_of_caller(gym.make, "max_episode_steps", depth=2), num_steps)


def check_single_wrappers(env: gym.Env[Any, Any], num_steps: int) -> None:
    """Raise an error for a ``TimeLimit`` below T around a single environment; ``reset`` calls it.

    Raises:
        ValueError: see ``check_limit``.
    """
    for wrapper in running_objects(TimeLimit, "reset"):
        if wrapper.unwrapped is env:
            check_limit(getattr(wrapper, "_max_episode_steps", None), num_steps)


def check_tensor_wrappers(env: gym.vector.VectorEnv[Any, Any, Any], on_cpu: bool) -> None:
    """Raise an error for wrappers around a vector environment that need NumPy arrays; ``reset`` calls it.

    Args:
        env: with ``backend="torch"``.
        on_cpu: whether its tensors are on a CPU, so that NumPy can read them.

    Raises:
        ValueError: naming the wrapper, and the alternatives.
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
                f"{name} needs NumPy arrays, and backend='torch' returns tensors: make the environment "
                "with backend='numpy', or put gymnasium.wrappers.vector.ArrayConversion(envs, env_xp=torch, "
                f"target_xp=numpy) beneath {name}. docs/wrappers.md lists the wrappers of each backend"
            )
