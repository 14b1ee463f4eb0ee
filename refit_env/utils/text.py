"""Makes text from files and options safe to print on a terminal."""

from __future__ import annotations

import unicodedata
from typing import Any

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that change the direction of the following text."""
_HIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories of control characters, lone surrogates and line separators."""


def visible(text: str, keep: str = "\n") -> str:
    r"""Return the text with its control characters escaped, so that a terminal does not execute them.

    Args:
        text: any text.
        keep: control characters that are not escaped.

    Example:
        >>> print(visible("red \x1b[31m"))
        red \x1b[31m
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or not _acts(c) else _written(c) for c in text)


def shown(value: Any, length: int = 40) -> str:
    """Format a plain value in about ``length`` characters; for any other value, only its type.

    The text of a nested list or of a number with thousands of digits, which can need long, is not computed.

    Example:
        >>> shown("ratings"), shown("x" * 50, 5), shown([[1], [2]]), shown(None)
        ("'ratings'", "'xxxxx'...", 'a list', 'None')
    """
    if isinstance(value, str | bytes):
        return repr(value[:length]) + ("..." if len(value) > length else "")
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() <= 64 else f"a number of {value.bit_length()} bits"
    return f"a {type(value).__name__}"


def acts(text: str) -> bool:
    r"""Return whether a text contains a control character.

    Example:
        >>> acts("plain"), acts("red \x1b[31m")
        (False, True)
    """
    return visible(text, keep="") != text


def _acts(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN or character in _TURNING


def _written(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
