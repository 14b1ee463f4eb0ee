"""What stands in a message: options as the reader spells them, and bounded pieces of what was found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


def listed(names: Iterable[str], length: int = 8) -> str:
    r"""The first names of many, each bounded.

    Example:
        >>> listed(["user", "item"]), listed(map(str, range(100)), 3)
        ('user, item', '0, 1, 2, ...')
        >>> print(listed(["with\na line end"]))
        'with\na line end'
    """
    texts: list[str] = []
    for name in names:
        if len(texts) == length:
            return ", ".join([*texts, "..."])
        begin = name[:40] if name[:40].isprintable() else repr(name[:40])
        texts.append(begin if len(name) <= 40 else f"{begin}...")
    return ", ".join(texts)


def reason(error: BaseException) -> str:
    """The kind of an error and the beginning of what it says, for libraries that say anything at any length.

    Example:
        >>> reason(ValueError("no such thing"))
        'ValueError: no such thing'
    """
    try:
        text = str(error).strip()
    except Exception:  # the error's own text may be what is broken
        text = ""
    first = text.splitlines()[0][:120] if text else ""
    first = first if first.isprintable() else repr(first)
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
