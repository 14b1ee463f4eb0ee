"""Actions that are added to a frozen pretrained policy.

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
"""Of a residual, in standard deviations of the policy."""


class ResidualAction(ChainWrapper):
    """The agent corrects a pretrained policy instead of replacing it.

    ## What

    The action a (D,) is a residual, in units of the policy's standard deviation:

        u_{T-t-1} = mean(u_{T-t}, t) + scale * std_t * a

    with the mean and std of a frozen ``DiffusionPolicy``. The zero action gives the pretrained chain exactly.

    ## Why

    An agent that acts with next vectors has to learn the denoiser before it can learn anything about the
    reward: an untrained one ranks at random. With residuals an untrained agent whose actions are about 0
    starts at the pretrained model's ranking, and unit-variance exploration is the policy's own sampling.

    ## Arguments

    | argument | default | meaning |
    |---|---|---|
    | ``env`` | | a denoising environment, wrapped or not |
    | ``policy`` | | a ``DiffusionPolicy``, of which a copy is kept, or the folder of a run |
    | ``scale`` | 1.0 | multiplies the policy's std |
    | ``bound`` | 5.0 | actions lie in ``Box(-bound, bound, (D,))`` |

    The policy's items, backbone and T must be the environment's, its std above 0; what does not fit is
    refused here. With a folder the wrapped environment's ``spec`` can be written to JSON, and the weights are
    shared by all environments of a process: give many single environments a folder. The residual never takes
    a next vector out of the environment's box, which only the policy's mean itself may leave. Observations do
    not change.

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
        """Wrap an environment; the class's docstring explains the arguments.

        Raises:
            ValueError: if env is no single denoising environment, the policy does not fit it, or a number is
                not above 0.
            CheckpointError: if the folder holds no readable policy.
        """
        plain = str(policy) if isinstance(policy, Path) else policy
        RecordConstructorArgs.__init__(self, policy=plain, scale=scale, bound=bound, _disable_deepcopy=True)
        problem = problem_of(env, type(self), vector=False)
        super().__init__(env, problem, action_map=residual_map(env, problem, policy, scale, bound))


def residual_map(
    env: Env, problem: DenoisingProblem, policy: DiffusionPolicy | Path | str, scale: float, bound: float
) -> ResidualMap:
    """The map of ``ResidualAction``, everything checked."""
    base: Any = env.unwrapped
    vectors: Any = base.single_action_space if isinstance(base, VectorEnv) else base.action_space
    return ResidualMap(frozen_policy(policy, problem), scale, bound, limit=float(vectors.high.max()))
