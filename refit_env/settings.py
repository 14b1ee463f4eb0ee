"""Base class of settings: fields declare their bounds, which are checked when a settings object is made.

Bounds are declared in the field's type, once for Python, the command line and files::

    @dataclass(frozen=True)
    class Training(Bounded):
        epochs: Annotated[int, Meta(ge=1, le=1_000_000)] = 200
        max_work: Annotated[float, Meta(ge=0, le=1e9, description="0: no limit")] = 0.0
        target: Annotated[str, OneOf(("train", "recent"))] = "train"
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import Meta

from refit_env.errors import SettingError, did_you_mean
from refit_env.utils.text import shown

LARGEST_SEED = 2**32 - 1
"""Largest seed that NumPy, Gymnasium and torch all accept."""
Seed = Annotated[int, Meta(ge=0, le=LARGEST_SEED)]
"""Seed of random numbers."""
Share = Annotated[float, Meta(ge=0, le=1)]
"""A share, 0 and 1 included."""
PartialShare = Annotated[float, Meta(ge=0, lt=1)]
"""A share below 1."""

Size = Annotated[int, Meta(ge=1, le=1_000_000)]
"""Size of a layer, an embedding or a list."""
Sizes = Annotated[tuple[Size, ...], Meta(min_length=1)]
"""Sizes of at least one layer."""
Positive = Annotated[float, Meta(gt=0)]
"""A divisor or a weight, above 0."""
Steps = Annotated[int, Meta(ge=1, le=100_000)]
"""Number of steps of a chain."""
Nonnegative = Annotated[float, Meta(ge=0)]
"""A weight or a scale."""
Known = Annotated[int, Meta(ge=0, le=2**62, description="0: set from the data")]
"""A count that is set from the data set."""

_CHECKED: ContextVar[bool] = ContextVar("checked", default=True)


class OneOf:
    """The allowed names of a text setting: metadata of its type, as ``Meta`` is for numbers."""

    def __init__(self, names: Iterable[str]) -> None:
        """Store the names."""
        self.names = tuple(names)

    def fault(self, value: object) -> str | None:
        """Return what is wrong with a name; None if it is allowed."""
        if value in self.names:
            return None
        hint = did_you_mean(value[:100], self.names) if isinstance(value, str) else ""
        return f"must be one of {', '.join(self.names)}; found {shown(value)}.{hint}"


class Form:
    """The form that a text setting must have: metadata of its type."""

    def __init__(self, fault: Callable[[str], str | None]) -> None:
        """Store the check: a function that returns what is wrong with a text, or None."""
        self.fault = fault


class Bounded:
    """Base of settings dataclasses: checks the fields against their bounds when an object is made."""

    def __post_init__(self) -> None:
        """Check the fields, except within ``unchecked``."""
        if _CHECKED.get():
            self.check()

    def check(self) -> None:
        """Check the fields against their bounds.

        Raises:
            SettingError: naming the first field that is out of bounds, its value and the bounds.
        """
        kind: Any = type(self)
        for name, hint in field_types(kind).items():
            fault = type_fault(hint, getattr(self, name))
            if fault is not None:
                raise SettingError(name, fault)
        self.check_together()

    def check_together(self) -> None:
        """Check conditions on several fields; subclasses override this method.

        Raises:
            SettingError: naming the field to change.
        """


@contextmanager
def unchecked() -> Iterator[None]:
    """Return a context in which settings are not checked; the caller calls ``check`` afterwards."""
    token = _CHECKED.set(False)
    try:
        yield
    finally:
        _CHECKED.reset(token)


@cache
def field_types(cls: Any) -> dict[str, Any]:
    """Return field -> type of a settings class, with the bounds."""
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in fields(cls)}


def type_fault(hint: Any, value: Any, notes: tuple[Any, ...] = ()) -> str | None:
    """Return what is wrong with a value of a type, bounds included; None if nothing is.

    Args:
        hint: the type.
        value: the value.
        notes: metadata of the type.

    Example:
        >>> type_fault(float | None, "x"), type_fault(float | None, 3)
        ("must be a number, found 'x'", None)
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_fault(parts[0], value, notes + tuple(hint.__metadata__))
    if origin in (Union, types.UnionType):
        if value is None and type(None) in parts:
            return None
        faults = [type_fault(part, value, notes) for part in parts if part is not type(None)]
        return None if None in faults else faults[0]
    if origin is tuple and len(parts) == 2 and parts[1] is Ellipsis:
        if not isinstance(value, tuple | list):
            return f"must be a list, found {shown(value)}"
        if not value and any(isinstance(note, Meta) and note.min_length for note in notes):
            return "must have at least one value, found none"
        return next((f for f in (type_fault(parts[0], one, notes) for one in value) if f is not None), None)
    kind = origin or hint
    if isinstance(kind, type) and issubclass(kind, Mapping):
        right = isinstance(value, Mapping)
        return None if right else f"must be a mapping such as {{'name': value}}, found {shown(value)}"
    if origin is Literal:
        return OneOf(parts).fault(value)
    if hint is bool:
        return None if isinstance(value, bool) else f"must be true or false, found {shown(value)}"
    if hint in (int, float):
        return _number_fault(value, hint is int, notes)
    if hint is str:
        if not isinstance(value, str):
            return f"must be a text, found {shown(value)}"
        return next((f for n in notes if isinstance(n, OneOf | Form) and (f := n.fault(value))), None)
    return None


def check_setting(name: str, value: Any, hint: Any) -> None:
    """Raise an error for a value that is not of a type, bounds included.

    Args:
        name: name of the setting.
        value: its value.
        hint: the type.

    Raises:
        SettingError: naming the setting, its value and the bounds.

    Example:
        >>> check_setting("alpha", -1, Share)
        Traceback (most recent call last):
            ...
        refit_env.errors.SettingError: alpha must be >= 0 and <= 1, found -1
    """
    fault = type_fault(hint, value)
    if fault is not None:
        raise SettingError(name, fault)


def check_kind(name: str, value: Any, *kinds: type) -> None:
    """Raise an error for a value of another class.

    Args:
        name: name of the argument.
        value: its value.
        kinds: the classes that it may have.

    Raises:
        SettingError: naming the argument, the classes and what was found.

    Example:
        >>> check_kind("env_kwargs", 3, dict)
        Traceback (most recent call last):
            ...
        refit_env.errors.SettingError: env_kwargs must be a dict, found 3
    """
    if not isinstance(value, kinds):
        known = [_with_article(kind) for kind in kinds]
        raise SettingError(name, f"must be {' or '.join(known)}, found {shown(value)}")


def check_callback(callback: object) -> None:
    """Raise an error for a callback that cannot be called; None is none.

    Raises:
        SettingError: saying what was found.

    Example:
        >>> check_callback(3)
        Traceback (most recent call last):
            ...
        refit_env.errors.SettingError: callback must be a function or None, found 3
    """
    if callback is not None and not callable(callback):
        raise SettingError("callback", f"must be a function or None, found {shown(callback)}")


def _with_article(kind: type) -> str:
    """Return the name of a class for a message, such as ``an int``."""
    if kind is type(None):
        return "None"
    return f"{'an' if kind.__name__[0].lower() in 'aeiou' else 'a'} {kind.__name__}"


def check_heads(heads: int, embedding: int) -> None:
    """Raise an error where the heads of an attention do not divide the size of the embeddings.

    Args:
        heads: number of heads, the setting ``heads``.
        embedding: size of an embedding, the setting ``embedding``.

    Raises:
        SettingError: naming both.

    Example:
        >>> check_heads(3, 8)
        Traceback (most recent call last):
            ...
        refit_env.errors.SettingError: heads must divide embedding=8, found 3
    """
    if embedding % heads:
        raise SettingError("heads", f"must divide embedding={embedding}, found {heads}")


def _number_fault(value: Any, whole: bool, notes: Iterable[Any]) -> str | None:
    """Return what is wrong with a number, or None."""
    stated = [note for note in notes if isinstance(note, Meta)]
    bounds = [bound for meta in stated for bound in _limits(meta)]
    kind: Any = Integral if whole else Real
    right = not isinstance(value, bool) and isinstance(value, kind) and _finite(value)
    if right and all(_HOLDS[sign](value, limit) for sign, limit in bounds):
        return None
    word = "" if right else "a whole number " if whole else "a number "
    said = " and ".join(f"{sign} {limit}" for sign, limit in bounds)
    means = "".join(f" ({meta.description})" for meta in stated if meta.description)
    return f"must be {word}{said}".rstrip() + f"{means}, found {shown(value)}"


def _finite(value: Any) -> bool:
    """Return whether a number is finite as a float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


_HOLDS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": lambda value, limit: value >= limit,
    ">": lambda value, limit: value > limit,
    "<=": lambda value, limit: value <= limit,
    "<": lambda value, limit: value < limit,
}


def _limits(meta: Meta) -> list[tuple[str, Any]]:
    """Return the bounds of a ``Meta``."""
    stated = ((">=", meta.ge), (">", meta.gt), ("<=", meta.le), ("<", meta.lt))
    return [(sign, limit) for sign, limit in stated if limit is not None]


def plain(value: Any) -> Any:
    """Return settings as JSON holds them: dataclasses as objects, tuples as lists, paths as texts.

    Example:
        >>> plain({"hidden": (200, 600), "out": Path("runs")})
        {'hidden': [200, 600], 'out': 'runs'}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
