"""The base of the wrappers of vector environments.

Letters: N sub-environments, n of them that ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from torch import Tensor

from refit_env.envs.problem import DenoisingProblem
from refit_env.envs.wrappers.state_tracker import Layer, read_actions, shown_vector
from refit_env.envs.wrappers.transforms import ActionMap, ObservationMap

if TYPE_CHECKING:
    AnyVectorWrapper: TypeAlias = VectorWrapper[Any, Any, Any, Any, Any]
else:
    AnyVectorWrapper = VectorWrapper  # which accepts type arguments only from Gymnasium 1.4 on


class ChainVectorWrapper(Layer, AnyVectorWrapper):
    """Applies maps of batches to a vector environment, in both backends."""

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        problem: DenoisingProblem,
        *,
        action_map: ActionMap | None = None,
        observation_map: ObservationMap | None = None,
    ) -> None:
        """Wrap a denoising vector environment whose problem is ``problem``.

        Raises:
            ValueError: if its observations lack an entry that the maps need.
        """
        VectorWrapper.__init__(self, env)
        self.attach(env, problem, action_map, observation_map)
        self._arrays = getattr(env.unwrapped, "backend", "numpy") == "numpy"
        if action_map is not None:
            self.single_action_space = action_map.space
        if observation_map is not None:
            shown_vector(env, type(self))
            below = env.single_observation_space
            assert isinstance(below, gym.spaces.Dict)
            self.single_observation_space = observation_map.observation_space(below)
            self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    @property
    def action_space(self) -> gym.Space[Any]:
        """The batched action space, made at its first use because that of D numbers an action is large."""
        if self.action_map is None:
            return self.env.action_space
        if self._action_space is None:
            self._action_space = batch_space(self.single_action_space, self.num_envs)
        return self._action_space

    @action_space.setter
    def action_space(self, space: gym.Space[Any]) -> None:
        self._action_space = space

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """See ``DenoisingVectorEnv``."""
        observations, info = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        return self._shown(observations, info), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """See ``DenoisingVectorEnv``; the actions are this wrapper's.

        Raises:
            ValueError: for NaN, infinity or a wrong shape; no chain changes.
            gymnasium.error.ResetNeeded: if a chain has ended, or none has started.
        """
        if self.action_map is not None:
            shape = (self.num_envs, *self.action_map.space.shape)
            given = read_actions(actions, shape, self.tracker.problem.device)  # (N, A)
            actions = self._of_backend(self.action_map(given, self.tracker.state()))
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        shown = self._shown(observations, info)
        if self.observation_map is not None and "final_obs" in info:
            info = info | {"final_obs": self._final(info["final_obs"], self.observation_map)}
        return shown, rewards, terminated, truncated, info

    def _shown(self, observations: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
        """This wrapper's observations, from those of the environment below."""
        if not self._tracks and self.observation_map is None:
            return observations
        users, where = (self._tensor(info[name]) if name in info else None for name in ("user", "_user"))
        shown = self.observed({k: self._tensor(v) for k, v in observations.items()}, users, where)
        if self.observation_map is None:
            return observations
        return {name: self._of_backend(value) for name, value in shown.items()}

    def _final(self, final: Any, observation_map: ObservationMap) -> Any:
        """This wrapper's last observations of the chains that ended."""
        if not self._arrays:
            return observation_map(final)
        ended = [i for i, observation in enumerate(final) if observation is not None]  # n of them
        batch = {
            name: torch.from_numpy(np.stack([final[i][name] for i in ended])) for name in final[ended[0]]
        }
        shown = {name: value.numpy() for name, value in observation_map(batch).items()}  # (n, ...)
        out = np.full(self.num_envs, None, dtype=object)
        for place, i in enumerate(ended):
            out[i] = {name: value[place].copy() for name, value in shown.items()}
        return out

    def _tensor(self, value: Any) -> Tensor:
        """Convert a value of the environment below to a tensor on its device."""
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    def _of_backend(self, value: Tensor) -> Any:
        """Convert a tensor to a value of the backend."""
        return value.numpy() if self._arrays else value
