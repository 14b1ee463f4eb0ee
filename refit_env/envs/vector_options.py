"""Checks of a vector environment's arguments and of the options of its ``reset``.

Letters: N sub-environments, n of them that start now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from refit_env.envs.backend import BACKENDS, Bools, Ints
from refit_env.envs.denoising import check_one_user
from refit_env.envs.problem import DenoisingProblem
from refit_env.errors import unknown_name
from refit_env.utils.devices import usable_device


def check_arguments(num_envs: Any, backend: Any, device: str) -> None:
    """Raise an error for wrong values of the arguments that only vector environments have."""
    if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
        raise ValueError(f"num_envs={num_envs!r} must be a whole number >= 1")
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if backend == "numpy" and str(device).partition(":")[0] != "cpu":
        raise ValueError(f"device={device!r} needs backend='torch': NumPy arrays are on the CPU")
    usable_device(device)


def resolve_autoreset(mode: str | AutoresetMode) -> AutoresetMode:
    """SAME_STEP or DISABLED."""
    allowed = [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]
    if mode == AutoresetMode.NEXT_STEP or mode == AutoresetMode.NEXT_STEP.value:
        raise ValueError(
            "autoreset_mode 'NextStep' would add a transition without meaning to every chain of T steps; "
            "use 'SameStep' or 'Disabled'"
        )
    if mode not in (*allowed, *(m.value for m in allowed)):
        raise unknown_name("autoreset_mode", mode, [m.value for m in allowed])
    return AutoresetMode(mode)


def read_users(
    options: Mapping[str, Any], where: Ints, num_envs: int, problem: DenoisingProblem
) -> Ints | None:
    """Return the users that the options name for the places ``where`` (n,); None if they name none.

    Args:
        options: of ``reset``; ``user`` holds numbers, ``user_id`` the source's ids.
        where: the places.
        num_envs: N.
        problem: the users' problem.

    Raises:
        ValueError: if there is neither one nor N of them, or one has no episodes.
    """
    check_one_user(options)
    if options.get("user_id") is not None:
        return _users_of_ids(options["user_id"], where, num_envs, problem)
    wanted = options.get("user")
    if wanted is None:
        return None
    if isinstance(wanted, bool | int | float | str | np.integer):
        return np.full(where.size, problem.check_user(wanted), dtype=np.int64)
    users = np.asarray(wanted.cpu() if isinstance(wanted, Tensor) else wanted)
    if users.shape != (num_envs,) or users.dtype.kind not in "iu":
        raise ValueError(
            f"options['user'] must be one whole number or {num_envs} of them, "
            f"got {users.dtype} of shape {users.shape}"
        )
    users = users[where].astype(np.int64)
    problem.check_users(torch.from_numpy(users))
    return users


def _users_of_ids(wanted: Any, where: Ints, num_envs: int, problem: DenoisingProblem) -> Ints:
    """Return the users with the source's ids ``wanted``, one for all or N, for the places ``where`` (n,)."""
    if isinstance(wanted, str | int | np.integer):
        return np.full(where.size, problem.user_of_id(wanted), dtype=np.int64)
    ids = list(wanted.tolist() if isinstance(wanted, np.ndarray | Tensor) else wanted)
    if len(ids) != num_envs:
        raise ValueError(f"options['user_id'] must be one id or {num_envs} of them, got {len(ids)}")
    return np.array([problem.user_of_id(ids[place]) for place in where], dtype=np.int64)


def read_mask(mask: Any, num_envs: int, begun: bool) -> Bools:
    """Return the places to reset, (N,) bool, from the option ``reset_mask``; all where it is None.

    Raises:
        ValueError: if it is not N booleans, is true nowhere, or leaves out a chain before the first reset
            (``begun`` is false).
    """
    if mask is None:
        return np.ones(num_envs, np.bool_)
    array = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask)
    if array.shape != (num_envs,) or array.dtype != np.bool_:
        raise ValueError(
            f"options['reset_mask'] must be {num_envs} booleans, got {array.dtype} of shape {array.shape}"
        )
    if not array.any():
        raise ValueError("options['reset_mask'] must be true somewhere")
    if not begun and not array.all():
        raise ValueError("the first reset() must start every chain: omit options['reset_mask']")
    return array
