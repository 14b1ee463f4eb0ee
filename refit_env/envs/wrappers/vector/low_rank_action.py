"""Low-rank actions for vector environments."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import VectorEnv

from refit_env.envs.wrappers.low_rank_action import LOW_RANK_BOUND, low_rank_map
from refit_env.envs.wrappers.state_tracker import problem_of, require_residual
from refit_env.envs.wrappers.vector.base import ChainVectorWrapper


class LowRankAction(ChainVectorWrapper):
    """``refit_env.envs.wrappers.LowRankAction`` in a batch: actions (N, r).

    >>> import gymnasium as gym
    >>> import refit_env
    >>> from refit_env.backbones import make_backbone
    >>> from refit_env.envs.wrappers.vector import ResidualAction
    >>> from refit_env.policy import DiffusionPolicy
    >>> envs = gym.make_vec("ReFiT-Synthetic-v0", num_envs=3)
    >>> backbone = make_backbone("diffrec", envs.unwrapped.problem.num_items, {"hidden": (8,)})
    >>> envs = LowRankAction(ResidualAction(envs, DiffusionPolicy(backbone, num_steps=4)), rank=16)
    >>> observations, info = envs.reset(seed=0)
    >>> observations, rewards, terminated, truncated, info = envs.step(envs.action_space.sample())
    >>> envs.action_space
    Box(-3.0, 3.0, (3, 16), float32)
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], rank: int = 32, bound: float = LOW_RANK_BOUND) -> None:
        """Wrap a vector environment; the single wrapper's docstring describes the arguments.

        Raises:
            ValueError: if env's actions are not residuals over items, or the rank or bound is out of range.
        """
        problem = problem_of(env, type(self), vector=True)
        require_residual(env, type(self))
        super().__init__(env, problem, action_map=low_rank_map(problem, rank, bound))
