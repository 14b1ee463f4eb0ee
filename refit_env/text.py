"""Text from files and options, made fit for a terminal."""

from __future__ import annotations

import unicodedata

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that change the direction in which a terminal shows what follows."""
_HIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories of control characters, lone surrogates and line separators."""


def visible(text: str, keep: str = "\n") -> str:
    r"""The text with its control characters written out, so that none of them reaches a terminal.

    Args:
        text: any.
        keep: control characters that stay.

    Example:
        >>> print(visible("red \x1b[31m"))
        red \x1b[31m
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or not _acts(c) else _written(c) for c in text)


def acts(text: str) -> bool:
    r"""Whether a text holds a control character.

    Example:
        >>> acts("plain"), acts("red \x1b[31m")
        (False, True)
    """
    return visible(text, keep="") != text


def _acts(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN or character in _TURNING


def _written(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
