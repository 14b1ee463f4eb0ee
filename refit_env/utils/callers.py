"""Finds objects on the call stack: the wrappers of an environment, or the algorithm of a policy.

Gymnasium's wrappers reference the environment, not the reverse, and Stable-Baselines3's policies do not
reference their algorithm. But a wrapper's ``reset`` calls the environment's, so it is on the call stack then.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


def running_objects(kind: type[T], method: str) -> list[T]:
    """Return the objects of a class with a running method, innermost first, each once.

    Args:
        kind: their class.
        method: the method's name.

    Returns:
        The objects; none where the interpreter does not expose its stack.

    Example:
        >>> class Wrapper:
        ...     def reset(self):
        ...         return [found is self for found in running_objects(Wrapper, "reset")]
        >>> Wrapper().reset()
        [True]
    """
    found: list[T] = []
    for frame in _frames():
        if frame.f_code.co_name != method:
            continue
        names = frame.f_code.co_varnames[:1]  # in a method, the object
        owner = frame.f_locals.get(names[0]) if names else None
        if isinstance(owner, kind) and not any(owner is other for other in found):
            found.append(owner)
    return found


def argument_of_caller(function: Callable[..., Any], name: str, depth: int) -> Any:
    """Return the argument ``name`` of ``function`` if it is ``depth`` calls above the caller, else None.

    Example:
        >>> def made_by():
        ...     return argument_of_caller(make, "limit", depth=1)
        >>> def make(limit):
        ...     return made_by()
        >>> make(7), made_by()
        (7, None)
    """
    for n, frame in enumerate(_frames()):
        if n == depth:
            called = frame.f_code is function.__code__
            return frame.f_locals.get(name) if called else None
    return None


def _frames() -> Iterator[FrameType]:
    """Yield the frames of the running calls, beginning with the caller of this module."""
    frame = inspect.currentframe()
    here = None if frame is None else frame.f_code.co_filename
    while frame is not None:
        if frame.f_code.co_filename != here:
            yield frame
        frame = frame.f_back
