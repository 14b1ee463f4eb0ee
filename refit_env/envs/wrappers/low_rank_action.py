"""Low-rank actions: residuals in the span of the leading item factors.

Letters: I items (= D, size of the diffused vector), r rank.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from gymnasium.utils import RecordConstructorArgs
from torch import Tensor

from refit_env.envs.problem import DenoisingProblem
from refit_env.envs.wrappers.single import ChainWrapper
from refit_env.envs.wrappers.state_tracker import problem_of, require_residual
from refit_env.envs.wrappers.transforms import LowRankMap
from refit_env.item_factors import item_factors

LOW_RANK_BOUND = 3.0
"""Limit of each coordinate of a low-rank action."""


class LowRankAction(ChainWrapper):
    """Actions are r numbers at any catalogue size.

    ## What

    Over ``ResidualAction``: the action z (r,) means the residual

        a = sqrt(I / r) * z F^T

    with F (I, r) the item factors, the r leading right singular vectors of the train matrix. F's columns
    are orthonormal, so z of unit variance becomes a residual whose root-mean-square over items is 1.

    ## Why

    SAC, TD3, evolution strategies and model-based methods work with 16 to 128 action dimensions, not with
    thousands. A residual in the span of the factors changes the scores of items together that the same users
    like, and so changes the list; most other directions only add noise.

    ## Arguments

    | argument | default | meaning |
    |---|---|---|
    | ``env`` | | an environment over ``ResidualAction``, without a wrapper between that changes actions |
    | ``rank`` | 32 | r, in 1..min(users, items) - 1 |
    | ``bound`` | 3.0 | actions are in ``Box(-bound, bound, (r,))`` |

    The residual is not clipped to the box of ``ResidualAction``: those of popular items are larger.

    >>> import gymnasium as gym
    >>> import refit_env
    >>> from refit_env.backbones import make_backbone
    >>> from refit_env.envs.wrappers import ResidualAction
    >>> from refit_env.policy import DiffusionPolicy
    >>> env = gym.make("ReFiT-Synthetic-v0")
    >>> backbone = make_backbone("diffrec", env.unwrapped.problem.num_items, {"hidden": (8,)})
    >>> env = LowRankAction(ResidualAction(env, DiffusionPolicy(backbone, num_steps=4)), rank=16)
    >>> observation, info = env.reset(seed=0)
    >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    >>> env.action_space
    Box(-3.0, 3.0, (16,), float32)
    """

    def __init__(self, env: gym.Env[Any, Any], rank: int = 32, bound: float = LOW_RANK_BOUND) -> None:
        """Wrap an environment; the class's docstring describes the arguments.

        Raises:
            ValueError: if env's actions are not residuals over items, or the rank or bound is out of range.
        """
        RecordConstructorArgs.__init__(self, rank=rank, bound=bound)
        problem = problem_of(env, type(self), vector=False)
        require_residual(env, type(self))
        super().__init__(env, problem, action_map=low_rank_map(problem, rank, bound))


def low_rank_map(problem: DenoisingProblem, rank: int, bound: float) -> LowRankMap:
    """Check the arguments of ``LowRankAction`` and make its map."""
    return LowRankMap(train_factors(problem, rank, "LowRankAction"), bound)


def train_factors(problem: DenoisingProblem, rank: int, wrapper: str) -> Tensor:
    """Return the item factors (I, r) of the train matrix, on the environment's device.

    Raises:
        ValueError: if the diffused vector is not one number for each item, or the rank is out of range.
    """
    if problem.dim != problem.num_items:
        raise ValueError(
            f"{wrapper} needs a vector of item scores, and the chain of {problem.config.backbone!r} diffuses "
            f"{problem.dim} numbers for {problem.num_items} items: a vector of that size needs no factors"
        )
    factors = item_factors(problem.dataset.train.csr, rank)  # (I, r)
    return torch.tensor(factors, device=problem.device)
