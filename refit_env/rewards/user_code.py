"""Rewards in files and modules of a user: ``my_reward.py:FreshHits``, ``package.module:name``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from refit_env.rewards.base import Reward
from refit_env.utils.text import shown
from refit_env.utils.user_code import object_at


def user_reward(name: str) -> type[Reward] | Callable[..., Any]:
    """Return the reward at a place: a ``Reward`` class, or a function (scores (B, I), users (B,)) -> (B,).

    Args:
        name: ``FILE.py:NAME`` or ``package.module:NAME``.

    Raises:
        ValueError: if there is no such file, module or name, it cannot be imported, or it is no reward. The
            message is one line that names what was passed.
    """
    found = object_at("reward", name, _rewards_in, "class or function")
    if inspect.isclass(found):
        if not issubclass(found, Reward):
            raise ValueError(
                f"reward {name!r} must be a subclass of refit_env.rewards.Reward, found {found!r}"
            )
        missing = sorted(getattr(found, "__abstractmethods__", ()))
        if missing:
            raise ValueError(f"reward {name!r}: class {found.__name__} must define {', '.join(missing)}")
        return found
    if not callable(found):
        raise ValueError(
            f"reward {name!r} must be a Reward class or a function (scores, users), found {shown(found)}"
        )
    made: Callable[..., Any] = found
    return made


def _rewards_in(module: ModuleType) -> list[str]:
    """Return the names of the rewards and functions that a module defines."""
    return [
        name
        for name, value in vars(module).items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module.__name__
    ]
