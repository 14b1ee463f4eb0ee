"""Observations of the highest entries of u.

Letters: D size of the diffused vector, K entries shown.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from refit_env.envs.wrappers.single import ChainWrapper
from refit_env.envs.wrappers.state_tracker import problem_of, shown_vector
from refit_env.envs.wrappers.transforms import TopKMap


class TopKObservation(ChainWrapper):
    """Observations hold the k highest entries of u.

    ## What

    ``ids`` (k,), the indices of the k highest entries divided by D - 1, and ``values`` (k,), the entries,
    replace ``u``; the highest is first, ties by the lower id. ``t`` and the other entries stay.

    ## Why

    Critics and models of the dynamics with thousands of inputs are slow and need much data, and the reward
    depends on the highest scores. In a starting history of ones all entries are ties, so it shows the k
    lowest ids; ``FactorObservation`` identifies users from the first step on.

    ## Arguments

    | argument | default | meaning |
    |---|---|---|
    | ``env`` | | a denoising environment, wrapped or not, with u in its observations |
    | ``k`` | 20 | number of entries, 1..D |

    >>> import gymnasium as gym
    >>> import refit_env
    >>> env = TopKObservation(gym.make("ReFiT-Synthetic-v0"), k=5)
    >>> observation, info = env.reset(seed=0)
    >>> {name: value.shape for name, value in sorted(observation.items())}
    {'ids': (5,), 't': (1,), 'values': (5,)}
    """

    def __init__(self, env: gym.Env[Any, Any], k: int = 20) -> None:
        """Wrap an environment; the class's docstring describes the arguments.

        Raises:
            ValueError: if env is not a denoising environment with u in its observations, or k is out of
                range.
        """
        RecordConstructorArgs.__init__(self, k=k)
        problem = problem_of(env, type(self), vector=False)
        super().__init__(env, problem, observation_map=TopKMap(k, shown_vector(env, type(self))))
