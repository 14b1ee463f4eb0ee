"""What the commands print goes through here: text is shown as it is, never obeyed.

Names from files and options may hold square brackets, which rich reads as styles, and control characters,
which a terminal obeys. Tables, lines and errors show both as plain characters.
"""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from refit_env.utils.text import visible


class PlainConsole(Console):
    """A console to which every text is plain."""

    def render_str(self, text: str, **settings: Any) -> Text:
        """A text without markup and emoji codes, its control characters written out."""
        return super().render_str(visible(text), **settings | {"markup": False, "emoji": False})


def console(*, stderr: bool = False, width: int | None = None) -> PlainConsole:
    """A console for tables and for lines, which are folded by the terminal alone.

    Args:
        stderr: print to the standard error instead of the standard output.
        width: columns; the terminal's if None.
    """
    return PlainConsole(stderr=stderr, width=width, soft_wrap=False, highlight=False)


def say(text: str, *, stderr: bool = False) -> None:
    """Print a line of text; it is not cut or folded."""
    print(visible(text), file=sys.stderr if stderr else sys.stdout, flush=True)


def complain(text: str) -> None:
    """Print an error to the standard error; the further lines of a long one are indented."""
    first, *others = visible(text).split("\n")
    print("\n".join([f"refit: error: {first}", *(f"  {line}" for line in others)]), file=sys.stderr)
