"""Parts of error messages: options as the user spells them, and shortened input values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_OPTIONS: ContextVar[bool] = ContextVar("options", default=False)


def spelled(argument: str, value: str | None = None, option_value: str = "") -> str:
    """Format an option as the user spells it: a Python argument or a command-line option.

    Args:
        argument: its name in Python.
        value: its value in Python, as source text; None omits it.
        option_value: its value on the command line.

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
    """Return a context in which ``spelled`` formats options as the command line spells them."""
    token = _OPTIONS.set(True)
    try:
        yield
    finally:
        _OPTIONS.reset(token)


def listed(names: Iterable[str], length: int = 8) -> str:
    r"""Join the first ``length`` names, each shortened to 40 characters.

    Example:
        >>> listed(["user", "item"]), listed(map(str, range(100)), 3)
        ('user, item', '0, 1, 2, ...')
        >>> listed(["", "user"])  # an index without a name
        "'', user"
        >>> print(listed(["with\na line end"]))
        'with\na line end'
    """
    texts: list[str] = []
    for name in names:
        if len(texts) == length:
            return ", ".join([*texts, "..."])
        begin = name[:40] if name[:40].strip() and name[:40].isprintable() else repr(name[:40])
        texts.append(begin if len(name) <= 40 else f"{begin}...")
    return ", ".join(texts)


def reason(error: BaseException) -> str:
    """Format the type of an error and the beginning of its message, which libraries do not bound.

    Example:
        >>> reason(ValueError("no such thing"))
        'ValueError: no such thing'
    """
    try:
        text = str(error).strip()
    except Exception:  # str() of a library's error can fail, too
        text = ""
    first = text.splitlines()[0][:120] if text else ""
    first = first if first.isprintable() else repr(first)
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
