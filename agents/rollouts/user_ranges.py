"""Training environments of ranges of the users, of which one at a time is in memory besides the first.

Letters: U users, E ranges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch

from agents.rollouts.training_envs import BatchSettings, make_training_envs
from refit_env.data import Dataset, load_dataset
from refit_env.envs.problem import forget
from refit_env.envs.vector import DenoisingVectorEnv
from refit_env.errors import SettingError
from refit_env.policy import DiffusionPolicy


class UserRanges:
    """Makes the environment of a range of users when it is needed, and frees the one before.

    The first one is kept: validation evaluates its users.

    Attributes:
        count: E.
        batch: users in a batch.
        first: the environment of range 0.
    """

    def __init__(
        self,
        count: int,
        env_id: str,
        policy: DiffusionPolicy,
        config: BatchSettings,
        device: torch.device,
        env_kwargs: Mapping[str, Any] | None = None,
        parts: int = 1,
    ) -> None:
        """Make the first environment; the arguments after ``count`` are those of ``make_training_envs``.

        Raises:
            SettingError: naming ``user_parts``, if the ranges have fewer users than a batch, or the data set
                cannot be divided.
        """
        if config.relevance_draws > 1:
            raise SettingError("user_parts", f"must be 1 with relevance_draws, found {count}")
        self.count, self._env_id, self._policy, self._config = count, env_id, policy, config
        self._device, self._parts, self._kwargs = device, parts, dict(env_kwargs or {})
        named: Any = self._kwargs.get("data", gym.spec(env_id).kwargs.get("data"))
        self._whole: Dataset = named if isinstance(named, Dataset) else load_dataset(named)
        self.first = self._make(0)
        self.batch = self.first.num_envs * parts // config.samples_per_user
        self._number, self._current = 0, self.first

    def env(self, number: int) -> DenoisingVectorEnv:
        """Return the environment of a range."""
        if number == 0:
            return self.first
        if number != self._number:
            if self._number:
                forget(self._current.problem)
            self._number, self._current = 0, self.first  # frees the range before the next one is made
            self._number, self._current = number, self._make(number)
        return self._current

    def _make(self, number: int) -> DenoisingVectorEnv:
        """Make the environment of a range."""
        ends = [self._whole.num_users * n // self.count for n in (number, number + 1)]
        try:
            data = self._whole.part(*ends)
        except ValueError as error:
            raise SettingError("user_parts", f"must be 1 here: {error}") from error
        making = self._env_id, self._policy, self._config, self._device
        batch, [env] = make_training_envs(*making, self._kwargs | {"data": data}, self._parts)
        if batch < self._config.users_per_batch:
            raise SettingError(
                "user_parts",
                f"must leave each range at least {self._config.users_per_batch} users that start episodes "
                f"(users_per_batch), found {self.count}: users {ends[0]}..{ends[1] - 1} have {batch}",
            )
        return env
