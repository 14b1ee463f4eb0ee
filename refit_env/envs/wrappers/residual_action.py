"""Residual actions: corrections of a frozen pretrained policy.

Letters: D size of the diffused vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv

from refit_env.envs.problem import DenoisingProblem
from refit_env.envs.wrappers.frozen_policy import frozen_policy
from refit_env.envs.wrappers.single import ChainWrapper
from refit_env.envs.wrappers.state_tracker import Env, problem_of
from refit_env.envs.wrappers.transforms import ResidualMap
from refit_env.policy import DiffusionPolicy

RESIDUAL_BOUND = 5.0
"""Limit of a residual, in standard deviations of the policy."""


class ResidualAction(ChainWrapper):
    """Actions are corrections of a pretrained policy.

    ## What

    The action a (D,) is a residual, in units of the policy's standard deviation:

        u_{T-t-1} = mean(u_{T-t}, t) + scale * std_t * a

    with the mean and std of a frozen ``DiffusionPolicy``. The zero action is the pretrained chain exactly.

    ## Why

    An untrained agent that acts with next vectors ranks at random: it must learn the denoiser before it can
    learn from the reward. With residuals, an untrained agent whose actions are about 0 ranks as the
    pretrained model does, and exploration of unit variance is the policy's own sampling.

    ## Arguments

    | argument | default | meaning |
    |---|---|---|
    | ``env`` | | a denoising environment, wrapped or not |
    | ``policy`` | | a ``DiffusionPolicy``, which is copied, or the folder of a run |
    | ``scale`` | 1.0 | factor of the policy's std |
    | ``bound`` | 5.0 | actions are in ``Box(-bound, bound, (D,))`` |

    The policy's items, backbone and T must equal the environment's, and its std must be above 0. With a
    folder, the wrapped environment's ``spec`` can be written to JSON, and all environments of a process share
    the weights, which suits many single environments. A residual never moves a next vector out of the
    environment's box; only the policy's mean itself may be outside. Observations do not change.

    >>> import gymnasium as gym, numpy as np
    >>> import refit_env
    >>> from refit_env.backbones import make_backbone
    >>> from refit_env.policy import DiffusionPolicy
    >>> env = gym.make("ReFiT-Synthetic-v0")
    >>> backbone = make_backbone("diffrec", env.unwrapped.problem.num_items, {"hidden": (8,)})
    >>> env = ResidualAction(env, DiffusionPolicy(backbone, num_steps=4))
    >>> observation, info = env.reset(seed=0)
    >>> for _ in range(4):  # the pretrained chain
    ...     observation, reward, terminated, truncated, info = env.step(np.zeros(env.action_space.shape))
    >>> terminated, env.action_space
    (True, Box(-5.0, 5.0, (400,), float32))
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        policy: DiffusionPolicy | Path | str,
        scale: float = 1.0,
        bound: float = RESIDUAL_BOUND,
    ) -> None:
        """Wrap an environment; the class's docstring describes the arguments.

        Raises:
            ValueError: if env is not a single denoising environment, the policy does not fit it, or a number
                is not above 0.
            CheckpointError: if the folder holds no readable policy.
        """
        plain = str(policy) if isinstance(policy, Path) else policy
        RecordConstructorArgs.__init__(self, policy=plain, scale=scale, bound=bound, _disable_deepcopy=True)
        problem = problem_of(env, type(self), vector=False)
        super().__init__(env, problem, action_map=residual_map(env, problem, policy, scale, bound))


def residual_map(
    env: Env, problem: DenoisingProblem, policy: DiffusionPolicy | Path | str, scale: float, bound: float
) -> ResidualMap:
    """Check the arguments of ``ResidualAction`` and make its map."""
    base: Any = env.unwrapped
    vectors: Any = base.single_action_space if isinstance(base, VectorEnv) else base.action_space
    return ResidualMap(frozen_policy(policy, problem), scale, bound, limit=float(vectors.high.max()))
