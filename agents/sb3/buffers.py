"""Rollout buffers whose advantages compare the chains of one user.

Stable-Baselines3's advantage is the return minus the critic's value. A chain has one reward, at its end, and
rewards differ much more between users than between the chains of one user. A critic reduces this variance
only after it has learned the values of all users, which needs more than 50 updates. The mean of the user's
other chains is a baseline without learning.

Letters: S steps of a rollout, N sub-environments, G chains of each user, C chains of each sub-environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from torch import Tensor

from agents.gradients.advantages import leave_one_out
from refit_env.settings import check_setting

Bools = npt.NDArray[np.bool_]


class LeaveOneOut(RolloutBuffer):
    """Base of the two buffers: a chain's advantage is its return minus the mean of the user's other chains.

    It is the same at all steps of the chain (RLOO, arXiv 2402.14740). The critic is still trained on
    Stable-Baselines3's returns, but no advantage depends on it. PPO's ``normalize_advantage`` only scales
    here, because the advantages of a group sum to zero.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
        *,
        group_size: int = 8,
        shared_start: bool = True,
    ) -> None:
        """Create a buffer; the algorithm does so, with ``rollout_buffer_kwargs`` for the keyword arguments.

        Args:
            buffer_size: S, the algorithm's ``n_steps``, a multiple of T.
            observation_space: ``Dict`` for ``LeaveOneOutRolloutBuffer``, ``Box`` for the flat buffer.
            action_space: see ``RolloutBuffer``.
            device: see ``RolloutBuffer``.
            gae_lambda: lambda of the critic's returns.
            gamma: must be 1: a chain's reward is at its end, and all its steps share the advantage.
            n_envs: N, a multiple of ``group_size``.
            group_size: G, the group size of ``GroupedUsers``.
            shared_start: whether one user's chains begin in the same state, as with ``start="history"``; if
                true, this is checked. False for ``"diffused"`` and ``"noise"``.

        Raises:
            ValueError: for a ``gamma`` below 1, a group size that does not divide N, or an observation space
                of the other type.
        """
        flat = not isinstance(self, DictRolloutBuffer)
        if isinstance(observation_space, spaces.Dict) == flat:
            other = LeaveOneOutRolloutBuffer if flat else LeaveOneOutFlatRolloutBuffer
            kind = type(observation_space).__name__
            raise ValueError(f"observations are a {kind}: pass rollout_buffer_class={other.__name__}")
        if gamma != 1.0:
            raise ValueError(f"gamma={gamma} must be 1: all steps of a chain share one advantage")
        check_setting("group_size", group_size, int)
        if group_size < 2 or n_envs % group_size:
            raise ValueError(
                f"rollout_buffer_kwargs group_size={group_size} must be at least 2 and divide the "
                f"{n_envs} sub-environments"
            )
        self.group_size, self.shared_start = group_size, shared_start
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            gae_lambda=gae_lambda,
            gamma=gamma,
            n_envs=n_envs,
        )

    def compute_returns_and_advantage(self, last_values: Tensor, dones: npt.NDArray[Any]) -> None:
        """Compute the critic's returns as SB3 does, and the advantages from the user's other chains.

        Raises:
            ValueError: if the rollout ends within a chain, or the chains of a group are not one user's.
        """
        super().compute_returns_and_advantage(last_values, dones)
        starts: Bools = self.episode_starts.astype(np.bool_)  # (S, N)
        self._check(starts, np.asarray(dones, np.bool_))
        chain = starts.cumsum(0) - 1  # (S, N) number of the step's chain in its sub-environment
        place = np.broadcast_to(np.arange(self.n_envs), chain.shape)  # (S, N)
        total = np.zeros((int(chain.max()) + 1, self.n_envs), np.float32)  # (C, N)
        np.add.at(total, (chain, place), self.rewards)
        groups = torch.from_numpy(total).view(-1, self.group_size)  # (C * N / G, G)
        advantage = leave_one_out(groups).view(total.shape).numpy()  # (C, N)
        self.advantages = advantage[chain, place]  # (S, N)

    def _check(self, starts: Bools, dones: Bools) -> None:
        """Raise an error unless a rollout holds whole chains of whole groups; starts (S, N), dones (N,)."""
        if not (starts[0].all() and dones.all()):
            raise ValueError(
                f"n_steps={self.buffer_size} must hold whole chains: use a multiple of the environment's T "
                "(num_steps), and begin with learn(), which resets"
            )
        together = self._agree(starts) & starts  # (S, N)
        if self.shared_start:
            parts = self.observations if isinstance(self.observations, Mapping) else {"": self.observations}
            for seen in parts.values():
                together &= self._agree(seen)
        if not np.array_equal(together, starts):
            step, env = np.argwhere(together != starts)[0]
            first = int(env) // self.group_size * self.group_size
            raise ValueError(
                f"sub-environments {first}..{first + self.group_size - 1} do not begin the same chain at "
                f"step {step} of the rollout, so they are not one user's. Wrap the vector environment in "
                f"refit_env.envs.wrappers.vector.GroupedUsers(envs, group_size={self.group_size}); where "
                "start is 'diffused' or 'noise', also pass rollout_buffer_kwargs={'shared_start': False}"
            )

    def _agree(self, values: npt.NDArray[Any]) -> Bools:
        """Return (S, N) whether all chains of a group have the same ``values`` (S, N, ...)."""
        groups = values.reshape(self.buffer_size, -1, self.group_size, *values.shape[2:])
        same: Bools = (groups == groups[:, :, :1]).reshape(*groups.shape[:2], -1).all(2)  # (S, N / G)
        return same.repeat(self.group_size, axis=1)


class LeaveOneOutRolloutBuffer(LeaveOneOut, DictRolloutBuffer):
    """``rollout_buffer_class=`` for PPO, A2C and TRPO on ``GroupedUsers``: a leave-one-out baseline per user.

    Example:
        >>> import gymnasium as gym
        >>> from stable_baselines3 import PPO
        >>> import refit_env
        >>> from agents.sb3 import DiffusionActorCriticPolicy, LeaveOneOutRolloutBuffer, to_sb3_vec_env
        >>> from refit_env.envs.wrappers.vector import GroupedUsers
        >>> envs = gym.make_vec("ReFiT-Synthetic-v0", num_envs=64, autoreset_mode="Disabled")
        >>> model = PPO(  # doctest: +SKIP
        ...     DiffusionActorCriticPolicy, to_sb3_vec_env(GroupedUsers(envs, group_size=8)), n_steps=4,
        ...     batch_size=256, gamma=1.0, policy_kwargs={"actor": {"run": "runs/elbo"}},
        ...     rollout_buffer_class=LeaveOneOutRolloutBuffer, rollout_buffer_kwargs={"group_size": 8},
        ... ).learn(1000)
    """


class LeaveOneOutFlatRolloutBuffer(LeaveOneOut):
    """``LeaveOneOutRolloutBuffer`` for observations after ``FlattenObservation``."""
