"""``refit bench``: one table of the project's ratios with their targets."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from refit_env.errors import SettingError


def main(words: Sequence[str]) -> int:
    """Run ``benchmarks.bench`` with the words that follow the command.

    Raises:
        SettingError: outside a copy of the source code; the installed package has no benchmarks.
    """
    try:
        bench = import_module("benchmarks.bench")
    except ModuleNotFoundError as error:
        if error.name not in ("benchmarks", "benchmarks.bench"):
            raise
        raise SettingError(
            "bench", "must run in a copy of the source code, whose folder benchmarks has the measurements"
        ) from error
    code: int = bench.main(list(words))
    return code
