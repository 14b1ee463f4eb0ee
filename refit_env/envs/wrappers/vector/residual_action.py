"""Residual actions for vector environments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from refit_env.envs.wrappers.residual_action import RESIDUAL_BOUND, residual_map
from refit_env.envs.wrappers.state_tracker import problem_of
from refit_env.envs.wrappers.vector.base import ChainVectorWrapper
from refit_env.policy import DiffusionPolicy


class ResidualAction(ChainVectorWrapper):
    """``refit_env.envs.wrappers.ResidualAction`` in a batch: actions (N, D), one pass of the network a step.

    >>> import gymnasium as gym, numpy as np
    >>> import refit_env
    >>> from refit_env.backbones import make_backbone
    >>> from refit_env.policy import DiffusionPolicy
    >>> envs = gym.make_vec("ReFiT-Synthetic-v0", num_envs=3)
    >>> backbone = make_backbone("diffrec", envs.unwrapped.problem.num_items, {"hidden": (8,)})
    >>> envs = ResidualAction(envs, DiffusionPolicy(backbone, num_steps=4))
    >>> observations, info = envs.reset(seed=0)
    >>> for _ in range(4):  # the pretrained chains
    ...     observations, rewards, terminated, truncated, info = envs.step(np.zeros(envs.action_space.shape))
    >>> terminated.tolist(), info["final_info"]["top_k"].shape
    ([True, True, True], (3, 20))
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        policy: DiffusionPolicy | Path | str,
        scale: float = 1.0,
        bound: float = RESIDUAL_BOUND,
    ) -> None:
        """Wrap a vector environment; the single wrapper's docstring describes the arguments.

        Raises:
            ValueError: if env is not a denoising vector environment, the policy does not fit it, or a number
                is not above 0.
            CheckpointError: if the folder holds no readable policy.
        """
        problem = problem_of(env, type(self), vector=True)
        super().__init__(env, problem, action_map=residual_map(env, problem, policy, scale, bound))
