"""Rewards at every step by a potential, which leave the optimal policies as they are.

Letters: D size of the diffused vector, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import RecordConstructorArgs

from refit_env.envs.wrappers.state_tracker import problem_of
from refit_env.errors import ReturnedError, SettingError
from refit_env.settings import Share, check_setting
from refit_env.utils.text import shown

Potential = Callable[[dict[str, Any], int], float]
"""Observation and user -> a number."""


class PotentialShaping(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Adds discount * potential(s') - potential(s) to each step's reward; the potential is 0 after the end.

    ## What

    By default the potential of a state is ``scale`` times the terminal reward that its vector u would earn as
    u_0, so that each denoising step is paid for what it improves:

        r'_t = r_t + discount * scale * r(u_{T-t-1}) - scale * r(u_{T-t}),    the last step's first term is 0.

    ## Why

    A chain is rewarded once, after its last step. Shaping by a potential moves the reward to the steps and
    changes no optimal policy (Ng, Harada and Russell, ICML 1999): the sum over an episode differs from the
    unshaped one by -potential(s_0), which no action changes, where ``discount`` is the agent's.

    ## Arguments

    | argument | default | meaning |
    |---|---|---|
    | ``env`` | | a denoising environment, wrapped or not |
    | ``potential`` | None | a function of (observation, user); None is the reward of u as it is |
    | ``scale`` | 1.0 | factor of the potential |
    | ``discount`` | 1.0 | the agent's discount |

    The reward is called once more a step, so a slow one slows the environment down. Rewards that count their
    calls (``llm_grade`` has a budget) are called for every step. ``info`` holds the unshaped reward as
    ``unshaped``.

    >>> import gymnasium as gym
    >>> import refit_env
    >>> env = PotentialShaping(gym.make("ReFiT-Synthetic-v0"))
    >>> observation, info = env.reset(seed=0)
    >>> rewards = [float(env.step(observation["u"])[1]) for _ in range(4)]  # u stays as it is
    >>> rewards[:3]
    [0.0, 0.0, 0.0]
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        potential: Potential | None = None,
        scale: float = 1.0,
        discount: float = 1.0,
    ) -> None:
        """Wrap an environment; see the class.

        Raises:
            SettingError: for a potential that is no function, a scale that is not finite, or a discount
                outside 0..1.
            ValueError: for an environment without a denoising chain.
        """
        if potential is not None and not callable(potential):
            raise SettingError(
                "potential", f"must be a function of (observation, user), or None; found {shown(potential)}"
            )
        check_setting("scale", scale, float)
        check_setting("discount", discount, Share)
        RecordConstructorArgs.__init__(self, potential=potential, scale=scale, discount=discount)
        gym.Wrapper.__init__(self, env)
        self._problem = problem_of(env, type(self), vector=False)
        self._potential, self._scale, self._discount = potential, scale, discount
        self._user, self._before = 0, 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """See ``DenoisingEnv``."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._user = int(info["user"])
        self._before = self._of(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """See ``DenoisingEnv``; the reward is the shaped one."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        after = 0.0 if terminated else self._of(observation)
        shaped = float(reward) + self._discount * after - self._before
        self._before = after
        return observation, shaped, terminated, truncated, info | {"unshaped": float(reward)}

    def _of(self, observation: dict[str, Any]) -> float:
        """The scaled potential of a state."""
        if self._potential is not None:
            found: Any = self._potential(observation, self._user)
            if not isinstance(found, SupportsFloat) or not math.isfinite(found):
                raise ReturnedError(f"the potential returned {shown(found)}, expected a finite number")
            return self._scale * float(found)
        u = torch.from_numpy(np.asarray(observation["u"], dtype=np.float32))[None]  # (1, D)
        value = self._problem.score(u, torch.tensor([self._user])).value
        return self._scale * float(value)
