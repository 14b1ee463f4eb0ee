"""Observations of the list's head.

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
    """The agent sees the k highest-scored entries of u instead of all of them.

    ## What

    ``u`` gives way to ``ids`` (k,), the places of the k highest entries divided by D - 1, and ``values``
    (k,), the entries themselves, highest first, ties by the lower id. ``t`` and whatever else is observed
    stay.

    ## Why

    Critics and models of the dynamics with thousands of inputs are slow and need much data. The reward is
    about the head of the list. Note that a starting history of ones has only ties, of which the k lowest ids
    are shown: ``FactorObservation`` tells users apart from the first step on.

    ## Arguments

    | argument | default | meaning |
    |---|---|---|
    | ``env`` | | a denoising environment, wrapped or not, that shows u |
    | ``k`` | 20 | entries shown, 1..D |

    >>> import gymnasium as gym
    >>> import refit_env
    >>> env = TopKObservation(gym.make("ReFiT-Synthetic-v0"), k=5)
    >>> observation, info = env.reset(seed=0)
    >>> {name: value.shape for name, value in sorted(observation.items())}
    {'ids': (5,), 't': (1,), 'values': (5,)}
    """

    def __init__(self, env: gym.Env[Any, Any], k: int = 20) -> None:
        """Wrap an environment; the class's docstring explains the arguments.

        Raises:
            ValueError: if env is no denoising environment that shows u, or k is out of range.
        """
        RecordConstructorArgs.__init__(self, k=k)
        problem = problem_of(env, type(self), vector=False)
        super().__init__(env, problem, observation_map=TopKMap(k, shown_vector(env, type(self))))
