"""How a message names an option: as the command line spells it there, as an argument in Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_OPTIONS: ContextVar[bool] = ContextVar("options", default=False)


def spelled(argument: str, value: str | None = None, option_value: str = "") -> str:
    """Name an option in the way of whoever reads the message.

    Args:
        argument: its name in Python.
        value: its value in Python, as source text; None leaves it out.
        option_value: what stands behind the option on the command line.

    Example:
        >>> spelled("token_ids", "True"), spelled("columns", "{'user': NAME}", "user=NAME")
        ('token_ids=True', "columns={'user': NAME}")
        >>> with as_options():
        ...     spelled("token_ids", "True"), spelled("columns", "{'user': NAME}", "user=NAME")
        ('--token-ids', '--columns user=NAME')
    """
    if _OPTIONS.get():
        return f"--{argument.replace('_', '-')} {option_value}".strip()
    return argument if value is None else f"{argument}={value}"


@contextmanager
def as_options() -> Iterator[None]:
    """Within, messages name options as the command line spells them."""
    token = _OPTIONS.set(True)
    try:
        yield
    finally:
        _OPTIONS.reset(token)
