"""The base of the wrappers of a single environment.

Letters: D size of the diffused vector.
"""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import RecordConstructorArgs

from refit_env.envs.problem import DenoisingProblem
from refit_env.envs.wrappers.state_tracker import Layer, read_actions, shown_vector
from refit_env.envs.wrappers.transforms import ActionMap, ObservationMap


class ChainWrapper(Layer, gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Applies maps of batches to a single environment, as a batch of one chain."""

    def __init__(
        self,
        env: gym.Env[Any, Any],
        problem: DenoisingProblem,
        *,
        action_map: ActionMap | None = None,
        observation_map: ObservationMap | None = None,
    ) -> None:
        """Wrap a denoising environment whose problem is ``problem``.

        Raises:
            ValueError: if its observations lack an entry that the maps need.
        """
        gym.Wrapper.__init__(self, env)
        self.attach(env, problem, action_map, observation_map)
        if action_map is not None:
            self.action_space = action_map.space
        if observation_map is not None:
            shown_vector(env, type(self))
            below = env.observation_space
            assert isinstance(below, gym.spaces.Dict)
            self.observation_space = observation_map.observation_space(below)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """See ``DenoisingEnv``."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._shown(observation, info), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """See ``DenoisingEnv``; the action is this wrapper's.

        Raises:
            ValueError: for NaN, infinity or a wrong shape; the episode does not change.
            gymnasium.error.ResetNeeded: before the first reset and after the episode's end.
        """
        if self.action_map is not None:
            given = read_actions(action, self.action_map.space.shape, self.tracker.problem.device)  # (A,)
            action = self.action_map(given[None], self.tracker.state())[0].numpy()
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._shown(observation, info), reward, terminated, truncated, info

    def _shown(self, observation: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
        """This wrapper's observation, from that of the environment below."""
        if not self._tracks and self.observation_map is None:
            return observation
        batch = {name: torch.from_numpy(value)[None] for name, value in observation.items()}
        users = torch.tensor([info["user"]]) if "user" in info else None
        shown = self.observed(batch, users, None)
        if self.observation_map is None:
            return observation
        return {name: np.ascontiguousarray(value[0].numpy()) for name, value in shown.items()}
