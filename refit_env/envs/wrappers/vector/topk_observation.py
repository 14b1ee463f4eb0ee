"""Observations of the highest entries of u, for vector environments."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import VectorEnv

from refit_env.envs.wrappers.state_tracker import problem_of, shown_vector
from refit_env.envs.wrappers.transforms import TopKMap
from refit_env.envs.wrappers.vector.base import ChainVectorWrapper


class TopKObservation(ChainVectorWrapper):
    """``refit_env.envs.wrappers.TopKObservation`` in a batch; ``final_obs`` is short, too.

    >>> import gymnasium as gym
    >>> import refit_env
    >>> envs = TopKObservation(gym.make_vec("ReFiT-Synthetic-v0", num_envs=3), k=5)
    >>> observations, info = envs.reset(seed=0)
    >>> {name: value.shape for name, value in sorted(observations.items())}
    {'ids': (3, 5), 't': (3, 1), 'values': (3, 5)}
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], k: int = 20) -> None:
        """Wrap a vector environment; the single wrapper's docstring describes the arguments.

        Raises:
            ValueError: if env is not a denoising vector environment with u in its observations, or k is out
                of range.
        """
        problem = problem_of(env, type(self), vector=True)
        super().__init__(env, problem, observation_map=TopKMap(k, shown_vector(env, type(self))))
