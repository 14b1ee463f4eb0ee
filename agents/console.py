"""Prints the commands' tables, lines, errors and JSON.

Names from files and options may hold square brackets, which rich reads as styles, and control characters,
which a terminal acts on. Both are shown as plain characters. Colours follow rich: none where ``NO_COLOR`` is
set, where ``TERM`` is ``dumb`` or where the output is no terminal, unless ``FORCE_COLOR`` is set.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from refit_env.utils.atomic_io import finite
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


def print_json(report: Any) -> None:
    """Print a value as one JSON document to the standard output; NaN and infinity become null."""
    print(json.dumps(finite(report), indent=2, ensure_ascii=False, allow_nan=False), flush=True)


def shows_progress(quiet: bool) -> bool:
    """Whether progress bars are drawn: not if the command is quiet, nor where stderr is no terminal."""
    return not quiet and sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
