"""``refit bench``: one table of the project's ratios with their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro
from msgspec import Meta

from agents.commands.options import Command, Flag, parse


@dataclass(frozen=True, kw_only=True)
class Bench(Command):
    """Measure this project's ratios beside their targets, in a copy of the source code.

    Iterations of the default agent over their bare matrix products, evaluation over a loop of users,
    pretraining over plain PyTorch. Each part is printed and kept when it is measured: after an interruption
    the same command goes on. What needs processes of its own, or a GPU, is read from ``benchmarks/results``.
    """

    work: ClassVar[str] = "agents.commands.bench_run:run"

    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ("ml-1m",)
    """``ml-1m``, ``yelp2018``, ``gowalla``; synthetic sets of their size where they are absent."""
    rounds: Annotated[int, Meta(ge=1, le=1000)] = 5
    """Rounds of measurements, at most; the best of them counts."""
    minutes: Annotated[float, Meta(gt=0, le=10_000)] = 10.0
    """Minutes after which no further round begins; each part has an equal share, and makes at least one."""
    out: Path | None = None
    """Folder of the result file ``bench.json``; ``benchmarks/results`` if left out."""
    write: Path | None = None
    """Markdown page to write, for example ``benchmarks/RESULTS.md``."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    command: Bench = parse(Bench, words, "refit bench")
    return command.run()
