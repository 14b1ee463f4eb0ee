"""Several chains of each user in a batch, for baselines that compare a user's chains.

Letters: N sub-environments, G chains of each user.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from refit_env.envs.wrappers.state_tracker import problem_of
from refit_env.envs.wrappers.vector.base import AnyVectorWrapper

Ints = npt.NDArray[np.int64]


class GroupedUsers(AnyVectorWrapper):
    """Each user has G consecutive sub-environments, so that N of them roll out N / G users.

    Rewards differ much more between users than between the chains of one user. A baseline that is the mean
    reward of the user's other chains removes that difference from a policy gradient.

    The environment's generators draw the users: each group has the user that its first sub-environment
    draws. Under ``start="history"`` the chains of a group start in the same state; under ``"diffused"`` and
    ``"noise"`` each chain has its own noise.

    It can be beneath or above the other wrappers of this package. It resets the environment below twice, once
    to draw users and once to set them.

    >>> import gymnasium as gym
    >>> import refit_env
    >>> envs = gym.make_vec("ReFiT-Synthetic-v0", num_envs=6, autoreset_mode="Disabled")
    >>> envs = GroupedUsers(envs, group_size=3)
    >>> observations, info = envs.reset(seed=0)
    >>> [int(user) for user in info["user"]]  # those of seeds 0 and 3
    [509, 509, 509, 68, 68, 68]
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], group_size: int = 8) -> None:
        """Wrap a denoising vector environment.

        Args:
            env: made with ``autoreset_mode="Disabled"``: an environment that resets itself would draw users
                that this wrapper cannot set.
            group_size: G, at least 2; N must be a multiple of it.

        Raises:
            ValueError: if env is not a denoising vector environment, resets itself, or has another N.
        """
        problem_of(env, type(self), vector=True)
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.DISABLED:
            raise ValueError(
                f"GroupedUsers needs an environment that is reset from outside, this one has autoreset_mode "
                f"{getattr(mode, 'value', mode)!r}: make it with gym.make_vec(id, num_envs={env.num_envs}, "
                "autoreset_mode='Disabled')"
            )
        whole = not isinstance(group_size, bool) and isinstance(group_size, int | np.integer)
        if not whole or group_size < 2 or env.num_envs % group_size:
            raise ValueError(
                f"group_size={group_size!r} must be a whole number >= 2 that divides num_envs={env.num_envs}"
            )
        super().__init__(env)
        self.group_size = int(group_size)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start new chains, with the same user in each group.

        Args:
            seed: see ``DenoisingVectorEnv.reset``.
            options: see there; ``"user"`` must have one user in each group, ``"reset_mask"`` whole groups.

        Returns:
            The observations, and ``{"user": (N,), "_user": mask}``.

        Raises:
            ValueError: if a group's users differ, or a mask selects a part of a group.
        """
        options = dict(options or {})
        self._check_groups(options.get("reset_mask"), "reset_mask", "reset whole groups")
        if options.get("user") is None:
            _, drawn = self.env.reset(seed=seed, options=dict(options))  # type: ignore[arg-type]  # lists, too
            seed, options["user"] = None, self._shared(drawn)
        else:
            self._check_groups(options["user"], "user", "pass one user for each group")
        return self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]

    def _shared(self, drawn: dict[str, Any]) -> Ints:
        """Return the user (N,) of each group's first sub-environment; any drawn user where it has none."""
        users, known = (_array(drawn[name]) for name in ("user", "_user"))  # (N,), (N,)
        users = np.where(known, users, users[known][0])  # (N,); the mask excludes the others
        return users.reshape(-1, self.group_size)[:, 0].repeat(self.group_size).astype(np.int64)

    def _check_groups(self, value: Any, name: str, right: str) -> None:
        """Raise an error for an option (N,) that differs within a group; the environment checks its shape."""
        if value is None:
            return
        array = _array(value)
        if array.shape != (self.num_envs,):
            return
        groups = array.reshape(-1, self.group_size)  # (N / G, G)
        mixed = np.flatnonzero((groups != groups[:, :1]).any(1))
        if mixed.size:
            first = int(mixed[0]) * self.group_size
            raise ValueError(
                f"options[{name!r}] differs within sub-environments {first}..{first + self.group_size - 1}, "
                f"which are one user's: {right}"
            )


def _array(value: Any) -> npt.NDArray[Any]:
    """Convert an option or an info to an array on the host."""
    return np.asarray(value.cpu() if isinstance(value, Tensor) else value)
