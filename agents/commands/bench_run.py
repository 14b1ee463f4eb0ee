"""The work of ``refit bench``."""

from __future__ import annotations

import json
from importlib import import_module

from agents.commands.bench import Bench
from agents.console import print_json
from refit_env.errors import SettingError


def run(command: Bench) -> int:
    """Measure, print and write; returns the exit code.

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
    path = bench.measure(
        command.data, command.rounds, command.minutes, command.out, command.write, command.json
    )
    if command.json:
        print_json(json.loads(path.read_text(encoding="utf-8")))
    return 0
