"""Several chains of one user side by side, for baselines that compare a user's chains.

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
    """Gives each user to G sub-environments in a row, so that N of them roll out N / G users.

    Rewards differ much more between users than between the chains of one. A baseline that is the mean of the
    user's other chains takes that difference out of a policy gradient; it needs those chains to be there.

    Users are drawn by the environment's own generators: each group takes the user that its first
    sub-environment draws. Under ``start="history"`` the group's chains begin in the same state; under
    ``"diffused"`` and ``"noise"`` each chain has noise of its own.

    It goes beneath or above the other wrappers of this package, and beneath what sends resets to several
    environments, since it resets twice: once to draw, once to share.

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
            env: made with ``autoreset_mode="Disabled"``: an environment that resets itself would draw the
                next users where this wrapper cannot see it.
            group_size: G, at least 2; N must be a multiple of it.

        Raises:
            ValueError: if env is no denoising vector environment, resets itself, or cannot be divided so.
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
        """Begin new chains, the same user in each group.

        Args:
            seed: see ``DenoisingVectorEnv.reset``.
            options: see there; ``"user"`` must name one user a group, ``"reset_mask"`` whole groups.

        Returns:
            The observations, and ``{"user": (N,), "_user": mask}``.

        Raises:
            ValueError: if a group's users differ, or a mask cuts a group in two.
        """
        options = dict(options or {})
        self._refuse_torn(options.get("reset_mask"), "reset_mask", "reset whole groups")
        if options.get("user") is None:
            _, drawn = self.env.reset(seed=seed, options=dict(options))  # type: ignore[arg-type]  # lists, too
            seed, options["user"] = None, self._shared(drawn)
        else:
            self._refuse_torn(options["user"], "user", "name one user for each group")
        return self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]

    def _shared(self, drawn: dict[str, Any]) -> Ints:
        """The user (N,) of each group's first sub-environment; any user's where none was drawn."""
        users, told = (_array(drawn[name]) for name in ("user", "_user"))  # (N,), (N,)
        users = np.where(told, users, users[told][0])  # (N,), the mask leaves the others as they are
        return users.reshape(-1, self.group_size)[:, 0].repeat(self.group_size).astype(np.int64)

    def _refuse_torn(self, value: Any, name: str, right: str) -> None:
        """Refuse an option (N,) that differs within a group; other shapes are the environment's to judge."""
        if value is None:
            return
        array = _array(value)
        if array.shape != (self.num_envs,):
            return
        groups = array.reshape(-1, self.group_size)  # (N / G, G)
        torn = np.flatnonzero((groups != groups[:, :1]).any(1))
        if torn.size:
            first = int(torn[0]) * self.group_size
            raise ValueError(
                f"options[{name!r}] differs within sub-environments {first}..{first + self.group_size - 1}, "
                f"which are one user's: {right}"
            )


def _array(value: Any) -> npt.NDArray[Any]:
    """An option or an info as an array on the host."""
    return np.asarray(value.cpu() if isinstance(value, Tensor) else value)
