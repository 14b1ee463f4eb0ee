"""The environments of a fine-tuning agent, the users of its batches, and the lists that its reward reads.

Letters: B users in a batch, E environments, U users, K list length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.rollouts.training_envs import make_training_envs
from agents.rollouts.user_ranges import UserRanges
from agents.training.config import TrainerConfig
from agents.training.kl import DIVERGENCE_USERS
from agents.training.lagrangian import Lagrangian
from agents.training.list_cache import ListCache
from agents.training.resumable import Resumable
from agents.training.user_draws import UserDraws
from refit_env.data import Dataset
from refit_env.envs.vector import DenoisingVectorEnv
from refit_env.errors import SettingError
from refit_env.evaluation.ranking import evaluated_users
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.base import refresh_all


class TrainingUsers(Resumable):
    """The part of an agent's state that depends on the users: see ``AgentState``."""

    name: ClassVar[str]
    supports_ranges: ClassVar[bool] = True
    """Whether the environment may be another one in each iteration, of other users."""

    config: TrainerConfig
    policy: DiffusionPolicy
    device: torch.device
    env: DenoisingVectorEnv
    lagrangian: Lagrangian
    seed: int
    envs: list[DenoisingVectorEnv]
    ranges: UserRanges | None
    user_generator: torch.Generator
    _draws: tuple[DenoisingVectorEnv, UserDraws]
    _lists: Tensor | None  # (E, U, K) last passed to rewards that use others' lists
    _cache: ListCache | None
    _start_values: npt.NDArray[np.float64] | None  # (n,) of the metric that selects, by the start

    @property
    def parts(self) -> int:
        """Equal parts that a batch is divided into."""
        return 1

    @property
    def dataset(self) -> Dataset:
        """The data set that validation and test evaluate: that of the first range where there are ranges."""
        return self.envs[0].problem.dataset

    @property
    def selects(self) -> bool:
        """Whether validation items select."""
        return not self.dataset.validation_learned

    def _make_envs(self, env: str | DenoisingVectorEnv, env_kwargs: Mapping[str, Any] | None) -> None:
        """Make the environments, or take the one that is given."""
        self.ranges = None
        if not isinstance(env, str):
            self.envs = [env]
            return
        making = env, self.policy, self.config, self.device, env_kwargs, self.parts
        if self.config.user_parts > 1:
            self.ranges = UserRanges(self.config.user_parts, *making)
            batch, self.envs = self.ranges.batch, [self.ranges.first]
        else:
            batch, self.envs = make_training_envs(*making)
        self.config = replace(self.config, users_per_batch=batch)

    def _list_cache(self) -> ListCache | None:
        """Return the cache of the lists that the reward reads; None without a time to live."""
        if not self.config.lists_ttl:
            return None
        if len(self.envs) > 1:
            raise SettingError("lists_ttl", f"must be 0 with relevance_draws, found {self.config.lists_ttl}")
        return ListCache(self.env.problem.reward_fn, self.config.lists_ttl)

    def refresh_cache(self, users: Tensor) -> dict[str, float]:
        """Make the cached lists that the rewards of ``users`` (B,) need; returns what is logged of it."""
        if self._cache is None:
            return {}
        found = self._cache.refresh(users, self.done, self.policy.scorer(self.dataset))
        self._lists = self._cache.lists[None]
        return found

    def _check_ranges(self) -> None:
        """Refuse what needs all users at once where one range of them is in memory.

        Raises:
            SettingError: naming ``user_parts``.
        """
        if self.config.user_parts == 1:
            return
        found = {
            f"algorithm {self.name!r}": not self.supports_ranges,
            "an environment that is given instead of an id": self.ranges is None,
            "a reward that uses the lists of all users": self.env.problem.reward_fn.uses_lists,
            "constraints": bool(self.lagrangian.conditions),
            "scores_learning_rate": bool(getattr(self.config, "scores_learning_rate", 0)),
        }
        for what, there in found.items():
            if there:
                raise SettingError("user_parts", f"must be 1 with {what}, found {self.config.user_parts}")

    def next_batch(self) -> Tensor:
        """Set the environment of this iteration, and return the users (B,) of its batch."""
        if self.ranges is None:
            self.env = self.envs[self.done % len(self.envs)]
        else:
            self.env = self.ranges.env(self.done // self.config.part_iterations % self.ranges.count)
        known, draws = self._draws
        if self.ranges is not None and known is not self.env:
            draws = UserDraws(self.config.draw_users, self.env.problem)
            self._draws = self.env, draws
        return draws.batch(self.config.users_per_batch, self.user_generator).to(self.device)

    def _prepare_users(self) -> None:
        """Divide the users into those of episodes and those that select, and prepare their draws and lists.

        Raises:
            ValueError: if a setting does not go with the reward or the data.
        """
        self._train_users, self._selection_users = self._split_users()
        self._draws = self.env, UserDraws(self.config.draw_users, self.env.problem)
        self._check_ranges()
        if self.selects:
            evaluated_users(self.dataset, "valid", self._selection_users)
        elif self.lagrangian.conditions:
            raise SettingError("constraint", "needs validation items, and here they are train items")
        self._lists = self._start_values = None
        self._cache = self._list_cache()

    def refresh_lists(self) -> None:
        """Pass the policy's lists to rewards that use others' lists (coverage, RACS's neighbor_lists)."""
        rewards = [env.problem.reward_fn for env in self.envs]
        if self._cache is not None:
            self.refresh_cache(self._train_users[:DIVERGENCE_USERS].to(self.device))  # those of the monitors
        elif rewards[0].uses_lists:
            score = self.policy.scorer(self.dataset)
            self._lists = torch.stack(refresh_all(rewards, score))  # each hold-out's own

    def _show_lists(self, lists: Tensor) -> None:
        """Pass to each environment's reward its lists of (E, U, K), as ``refresh_lists`` did."""
        self._lists = lists
        for env, own in zip(self.envs, lists, strict=True):
            env.problem.reward_fn.set_lists(own)

    def _split_users(self) -> tuple[Tensor, npt.NDArray[np.int64] | None]:
        """Return the users that episodes are drawn from, and those whose validation items select (None: all).

        A reward that uses validation items must not select the weights on the same users.

        Raises:
            ValueError: if the reward uses everyone's.
        """
        problem = self.env.problem
        selecting, tested = problem.selecting, problem.dataset.valid.users
        if selecting is not None and not np.isin(selecting, tested).any():
            raise ValueError(
                "the reward sees all validation items, so that none is left to select the weights: "
                "raise relevance_kwargs={'selection_share': ...} (0.5 is usual)"
            )
        users = torch.as_tensor(problem.users, dtype=torch.int64)
        if self.config.validation_users and self.selects:
            known = evaluated_users(problem.dataset, "valid", selecting)
            count = min(self.config.validation_users, known.size)
            selecting = np.sort(np.random.default_rng(self.seed).choice(known, count, replace=False))
        return users, selecting
