"""Observations along the item factors.

Letters: D size of the diffused vector, r rank.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from refit_env.envs.problem import DenoisingProblem
from refit_env.envs.wrappers.low_rank_action import train_factors
from refit_env.envs.wrappers.single import ChainWrapper
from refit_env.envs.wrappers.state_tracker import Env, problem_of, shown_vector
from refit_env.envs.wrappers.transforms import FactorMap


class FactorObservation(ChainWrapper):
    """Observations hold the coordinates of u along the r leading item factors.

    ## What

    ``factors`` (r,) replaces ``u``: u F, with F (D, r) the leading right singular vectors of the train
    matrix. ``t`` and the other entries stay. The box holds the coordinates of every u in its box.

    ## Why

    It is the best linear summary of the users' rows in r numbers, so it identifies the user and the state at
    any catalogue size. With ``LowRankAction`` of the same rank, states and actions have the same coordinates,
    which suits SAC, TD3, evolution strategies and model-based methods.

    ## Arguments

    | argument | default | meaning |
    |---|---|---|
    | ``env`` | | a denoising environment, wrapped or not, with u in its observations |
    | ``rank`` | 32 | r, in 1..min(users, items) - 1 |

    >>> import gymnasium as gym
    >>> import refit_env
    >>> env = FactorObservation(gym.make("ReFiT-Synthetic-v0"), rank=16)
    >>> observation, info = env.reset(seed=0)
    >>> {name: value.shape for name, value in sorted(observation.items())}
    {'factors': (16,), 't': (1,)}
    """

    def __init__(self, env: gym.Env[Any, Any], rank: int = 32) -> None:
        """Wrap an environment; the class's docstring describes the arguments.

        Raises:
            ValueError: if env is not a denoising environment of items with u in its observations, or the rank
                is out of range.
        """
        RecordConstructorArgs.__init__(self, rank=rank)
        problem = problem_of(env, type(self), vector=False)
        super().__init__(env, problem, observation_map=factor_map(env, type(self), problem, rank))


def factor_map(env: Env, wrapper: type, problem: DenoisingProblem, rank: int) -> FactorMap:
    """Check the arguments of ``FactorObservation`` and make its map."""
    vector = shown_vector(env, wrapper)
    return FactorMap(train_factors(problem, rank, wrapper.__name__), vector)
