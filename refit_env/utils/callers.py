"""The calls that are running: what wraps an environment or trains a policy, neither of which is told.

Gymnasium's wrappers know what they wrap, not the reverse, and Stable-Baselines3's policies do not know their
algorithm. But a wrapper's ``reset`` calls that of the environment, and so they stand on the call stack then.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


def running_objects(kind: type[T], method: str) -> list[T]:
    """The objects of a class of which a method is running, innermost first, each once.

    Args:
        kind: their class.
        method: the method's name.

    Returns:
        The objects; none where the interpreter keeps no stack that can be read.

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
        names = frame.f_code.co_varnames[:1]  # of a method, the object
        owner = frame.f_locals.get(names[0]) if names else None
        if isinstance(owner, kind) and not any(owner is other for other in found):
            found.append(owner)
    return found


def argument_of_caller(function: Callable[..., Any], name: str, depth: int) -> Any:
    """The argument ``name`` of ``function`` if that is the call ``depth`` above the one that asks, else None.

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
    """The frames of the calls that are running, from that of who called a function of this module."""
    frame = inspect.currentframe()
    here = None if frame is None else frame.f_code.co_filename
    while frame is not None:
        if frame.f_code.co_filename != here:
            yield frame
        frame = frame.f_back
