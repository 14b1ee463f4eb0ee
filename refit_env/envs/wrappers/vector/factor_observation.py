"""Observations along the item factors, for vector environments."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import VectorEnv

from refit_env.envs.wrappers.factor_observation import factor_map
from refit_env.envs.wrappers.state_tracker import problem_of
from refit_env.envs.wrappers.vector.base import ChainVectorWrapper


class FactorObservation(ChainVectorWrapper):
    """``refit_env.envs.wrappers.FactorObservation`` in a batch; ``final_obs`` is projected, too.

    >>> import gymnasium as gym
    >>> import refit_env
    >>> envs = FactorObservation(gym.make_vec("ReFiT-Synthetic-v0", num_envs=3), rank=16)
    >>> observations, info = envs.reset(seed=0)
    >>> {name: value.shape for name, value in sorted(observations.items())}
    {'factors': (3, 16), 't': (3, 1)}
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], rank: int = 32) -> None:
        """Wrap a vector environment; the single wrapper's docstring describes the arguments.

        Raises:
            ValueError: if env is not a denoising vector environment of items with u in its observations, or
                the rank is out of range.
        """
        problem = problem_of(env, type(self), vector=True)
        super().__init__(env, problem, observation_map=factor_map(env, type(self), problem, rank))
