"""Adapts a Gymnasium ``VectorEnv`` to Stable-Baselines3's ``VecEnv``, without splitting batches.

SB3 has no such adapter; its ``DummyVecEnv`` steps single environments in a loop and deep-copies their infos.
Here a step is one step of the vector environment. Dictionaries per sub-environment, which SB3 expects, are
filled only at the ends of episodes.

Letters: N sub-environments, n of them whose episode ends, D size of the diffused vector.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.wrappers.vector import DictInfoToList
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices
from torch import Tensor

from agents.sb3.info_layout import alike, common_options, places, rows_of
from agents.sb3.reward_check import check_reward, refuse_nonfinite_rewards
from refit_env.envs.wrappers.state_tracker import layers

Bools = npt.NDArray[np.bool_]
AnyVectorEnv = VectorEnv[Any, Any, Any]


def to_sb3_vec_env(vector_env: AnyVectorEnv) -> GymVecEnv:
    """Adapt a vector environment for any Stable-Baselines3 algorithm.

    Args:
        vector_env: result of ``gym.make_vec``, wrapped or not, with either backend; autoreset ``SameStep`` or
            ``Disabled`` (then the adapter starts new episodes by partial resets).

    Returns:
        The adapter. It passes seeds, options (``set_options({"user": 7})``) and attribute reads to the vector
        environment; finished episodes have ``info["episode"]``, as with SB3's ``Monitor``.

    Raises:
        TypeError: for an object that is not a Gymnasium vector environment.
        ValueError: for autoreset ``NextStep``, infos as a list, or a denoising environment whose reward is
            not finite.

    Example:
        >>> import gymnasium as gym
        >>> import refit_env
        >>> envs = to_sb3_vec_env(gym.make_vec("ReFiT-Synthetic-v0", num_envs=3))
        >>> observation = envs.reset()
        >>> for _ in range(4):
        ...     observation, reward, done, infos = envs.step(observation["u"])
        >>> done.tolist(), infos[0]["terminal_observation"]["t"].tolist(), infos[0]["episode"]["l"]
        ([True, True, True], [4.0], 4)
    """
    return GymVecEnv(vector_env)


class GymVecEnv(VecEnv):
    """The adapter that ``to_sb3_vec_env`` returns.

    Attributes:
        env: the vector environment.
    """

    def __init__(self, vector_env: AnyVectorEnv) -> None:
        """Wrap ``vector_env``; see ``to_sb3_vec_env``."""
        if not isinstance(vector_env, VectorEnv):
            raise TypeError(
                f"{type(vector_env).__name__} is not a gymnasium.vector.VectorEnv: make one with "
                "gym.make_vec(id, num_envs=N). A single environment needs no adapter"
            )
        if any(isinstance(layer, DictInfoToList) for layer in layers(vector_env)):
            raise ValueError(
                "DictInfoToList splits infos by sub-environment, which the adapter does itself: remove the "
                "wrapper"
            )
        self.env = vector_env
        self._resets_itself = _resets_itself(vector_env)
        check_reward(vector_env)
        super().__init__(
            vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space
        )
        self.metadata = dict(vector_env.metadata)
        self.spec = vector_env.spec
        self._actions: Any = None
        self._begun = False
        self._started = time.perf_counter()
        self._returns = np.zeros(self.num_envs, np.float64)
        self._lengths = np.zeros(self.num_envs, np.int64)

    # ------------------------------------------------------------------ reset and step

    def reset(self) -> Any:
        """Reset all sub-environments, with the seeds and options that were set since the last reset.

        Raises:
            ValueError: for options that the environment refuses, or for another number of sub-environments.
        """
        if len(self._options) != self.num_envs:
            raise ValueError(f"set_options: {len(self._options)} mappings, {self.num_envs} sub-environments")
        everywhere = np.ones(self.num_envs, np.bool_)
        # Separate sub-environments may have their own options, with any names.
        alone = _sub_environments(self.env) is not None
        groups = alike(self._options) if alone else [everywhere]
        if len(groups) == 1:
            options = dict(self._options[0]) or None if alone else common_options(self._options)
            observation = self._begin(everywhere, options)
        else:
            if not self._begun:  # a partial reset needs a full reset before
                self._begin(everywhere, None)
            for mask in groups:
                own = self._options[int(mask.argmax())]
                observation = self._begin(mask, {"reset_mask": mask.copy()} | own)
        self._begun = True
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:] = 0.0, 0
        return arrays(observation)

    def _begin(self, mask: Bools, options: dict[str, Any] | None) -> Any:
        """Reset the sub-environments of ``mask`` (N,), which ``options`` contain; return all observations."""
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        observation, info = self.env.reset(seed=seeds, options=options)  # type: ignore[arg-type]  # lists, too
        self._store_reset_infos(info, mask)
        return observation

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Store the actions (N, ...) for ``step_wait``."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Step all sub-environments.

        Returns:
            Observations (of the next episode where one ended), rewards (N,) float32, ends (N,) bool, and N
            dictionaries. They are empty except at ends, where they hold ``terminal_observation``,
            ``TimeLimit.truncated``, ``episode`` and the environment's info (the reward's terms).

        Raises:
            ValueError: if a reward is NaN or infinite, naming the sub-environment and its user.
        """
        observation, reward, terminated, truncated, info = self.env.step(self._actions)
        rewards = arrays(reward)  # (N,)
        ended, cut = arrays(terminated), arrays(truncated)  # (N,), (N,)
        done: Bools = ended | cut  # (N,)
        refuse_nonfinite_rewards(rewards, done, info)
        self._returns += rewards
        self._lengths += 1
        # new dictionaries, because SB3's wrappers write into them
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done.any():
            observation = self._end(observation, info, done, cut & ~ended, infos)
        return arrays(observation), rewards.astype(np.float32), done, infos

    def _end(
        self, observation: Any, info: dict[str, Any], done: Bools, cut: Bools, infos: list[dict[str, Any]]
    ) -> Any:
        """Fill the infos of finished episodes, start the next ones, and return the observation."""
        where = np.flatnonzero(done)  # (n,)
        last = info["final_obs"] if self._resets_itself else observation
        rows = rows_of(info.get("final_info", {}) if self._resets_itself else info, where)
        elapsed = round(time.perf_counter() - self._started, 6)
        for i, row, seen in zip(where, rows, _observations(last, where), strict=True):
            row["terminal_observation"] = seen
            row["TimeLimit.truncated"] = bool(cut[i])
            row.setdefault(
                "episode", {"r": float(self._returns[i]), "l": int(self._lengths[i]), "t": elapsed}
            )
            infos[i] = row
        self._returns[where], self._lengths[where] = 0.0, 0
        if not self._resets_itself:
            observation, info = self.env.reset(options={"reset_mask": done})
        self._store_reset_infos(info, done)
        return observation

    def _store_reset_infos(self, info: Mapping[str, Any], begun: Bools) -> None:
        """Store the infos of resets, as SB3 does."""
        where = np.flatnonzero(begun)
        rest = {
            name: value for name, value in info.items() if name.lstrip("_") not in ("final_obs", "final_info")
        }
        for i, row in zip(where, rows_of(rest, where), strict=True):
            self.reset_infos[i] = row

    def close(self) -> None:
        """Close the vector environment."""
        self.env.close()

    # ------------------------------------------------------------------ rendering

    def get_images(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        """Return an image of each sub-environment."""
        if self.render_mode != "rgb_array":
            warnings.warn(f"render_mode is {self.render_mode!r}: images need 'rgb_array'", stacklevel=2)
            return [None] * self.num_envs
        pictures: Sequence[npt.NDArray[np.uint8]] = self.env.render()  # type: ignore[assignment]
        return list(pictures)

    # ------------------------------------------------------------------ attributes and methods

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute, once per selected sub-environment; batched environments share it.

        Raises:
            AttributeError: if there is no such attribute.
            IndexError: for an unknown sub-environment; negative indices count from the end.
        """
        chosen = places(indices, self.num_envs)
        if (subs := _sub_environments(self.env)) is not None:
            return [subs[i].get_wrapper_attr(attr_name) for i in chosen]
        return [self._lookup(attr_name)] * len(chosen)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute where it is defined.

        Raises:
            ValueError: for some of the sub-environments of a batched environment, which share it.
            IndexError: see ``get_attr``.
        """
        chosen = places(indices, self.num_envs)
        if (subs := _sub_environments(self.env)) is not None:
            for i in chosen:
                subs[i].set_wrapper_attr(attr_name, value)
            return
        if len(set(chosen)) < self.num_envs:
            raise ValueError(
                f"set_attr({attr_name!r}) for sub-environments {chosen}: the {self.num_envs} of a batched "
                "environment share their attributes; omit indices"
            )
        layer = self.env
        while isinstance(layer, VectorWrapper) and attr_name not in vars(layer):
            layer = layer.env
        setattr(layer, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each selected sub-environment, or once for a batched environment.

        A batched environment's result is split by sub-environment if it is a tuple or list of N values.

        Raises:
            AttributeError: if there is no such method.
            IndexError: see ``get_attr``.
        """
        chosen = places(indices, self.num_envs)
        if (subs := _sub_environments(self.env)) is not None:
            return [subs[i].get_wrapper_attr(method_name)(*method_args, **method_kwargs) for i in chosen]
        answer = self._lookup(method_name)(*method_args, **method_kwargs)
        if isinstance(answer, tuple | list) and len(answer) == self.num_envs:
            return [answer[i] for i in chosen]
        return [answer] * len(chosen)

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Return whether a wrapper of this class is used; ``Monitor`` is, as the adapter replaces it."""
        chosen = places(indices, self.num_envs)
        layer, around = self.env, issubclass(Monitor, wrapper_class)
        while isinstance(layer, VectorWrapper):
            around, layer = around or isinstance(layer, wrapper_class), layer.env
        subs = _sub_environments(self.env)
        return [around or (subs is not None and _is_wrapped(subs[i], wrapper_class)) for i in chosen]

    def _lookup(self, name: str) -> Any:
        """Return the attribute of the outermost layer that has it."""
        layer = self.env
        while True:
            if hasattr(layer, name):
                return getattr(layer, name)
            if not isinstance(layer, VectorWrapper):
                raise AttributeError(f"{type(self.env.unwrapped).__name__} has no attribute {name!r}")
            layer = layer.env


def arrays(value: Any) -> Any:
    """Convert tensors to NumPy arrays, also in mappings; arrays are unchanged."""
    if isinstance(value, Mapping):
        return {name: arrays(part) for name, part in value.items()}
    return value.cpu().numpy() if isinstance(value, Tensor) else value


def _observations(batch: Any, where: npt.NDArray[np.int64]) -> list[Any]:
    """Return the observations of the sub-environments ``where`` (n,) from a batch or an array of objects."""
    if isinstance(batch, np.ndarray) and batch.dtype == object:
        return [arrays(batch[i]) for i in where]
    batch = arrays(batch)
    if isinstance(batch, Mapping):
        return [{name: part[i] for name, part in batch.items()} for i in where]
    return [batch[i] for i in where]


def _resets_itself(env: AnyVectorEnv) -> bool:
    """Return whether the step that ends an episode also starts the next one.

    Raises:
        ValueError: for ``NextStep``, and for an environment without an autoreset mode.
    """
    mode = env.metadata.get("autoreset_mode")
    if mode == AutoresetMode.SAME_STEP:
        return True
    if mode == AutoresetMode.DISABLED:
        return False
    raise ValueError(
        f"autoreset_mode {getattr(mode, 'value', mode)!r}: Stable-Baselines3 needs a reset in the step that "
        "ends an episode; make the environment with AutoresetMode.SAME_STEP (or DISABLED, then the adapter "
        "resets)"
    )


def _sub_environments(env: AnyVectorEnv) -> Sequence[gym.Env[Any, Any]] | None:
    """Return the environments of a ``SyncVectorEnv``; None for a batched environment."""
    return getattr(env.unwrapped, "envs", None)


def _is_wrapped(env: gym.Env[Any, Any], wrapper_class: type[Any]) -> bool:
    """Return whether a single environment has a wrapper of this class."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, wrapper_class):
            return True
        env = env.env
    return False
