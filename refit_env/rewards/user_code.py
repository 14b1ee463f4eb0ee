"""Rewards in files and modules of a user: ``my_reward.py:FreshHits``, ``package.module:name``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from refit_env.rewards.base import ListReward, Reward
from refit_env.utils.text import shown
from refit_env.utils.user_code import methods_fault, object_at


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
        check_arguments(name, found)
        return found
    if not callable(found):
        raise ValueError(
            f"reward {name!r} must be a Reward class or a function (scores, users), found {shown(found)}"
        )
    made: Callable[..., Any] = found
    return made


CALLED = {
    "compute": 4,
    "term_gains": 2,
    "term_gains_at": 3,
    "lists_read": 2,
    "set_lists": 2,
    "set_progress": 2,
}
"""Methods that a class may define -> number of their arguments, self among them."""


def check_arguments(name: str, cls: type[Reward]) -> None:
    """Refuse a class whose constructor or methods cannot be called as they are, or are async.

    Raises:
        ValueError: naming the reward, the method, its arguments and those that it should have.
    """
    fault = methods_fault(cls, ListReward, CALLED)
    if fault is not None:
        raise ValueError(f"reward {name!r}: {fault}")
    arguments = inspect.signature(cls.__init__).parameters.values()
    if not any(one.kind is one.VAR_POSITIONAL for one in arguments):
        by_place = [one for one in arguments if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
        if len(by_place) < 2:
            found = ", ".join(one.name for one in arguments)
            raise ValueError(f"reward {name!r}: __init__ accepts ({found}), expected (self, context, ...)")
    if issubclass(cls, ListReward) and cls.__init__ is ListReward.__init__:
        raise ValueError(
            f"reward {name!r}: class {cls.__name__} must define __init__(self, context), which calls "
            "super().__init__(context, discount, weights)"
        )


def _rewards_in(module: ModuleType) -> list[str]:
    """Return the names of the rewards and functions that a module defines."""
    return [
        name
        for name, value in vars(module).items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module.__name__
    ]
