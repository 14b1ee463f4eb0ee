"""``refit report``: one HTML page that shows what runs or a study did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro
from msgspec import Meta

from agents.commands.options import Command, Flag, parse


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Write one HTML page that shows what runs or a study did; it needs no network.

    Of a run: the result with intervals, curves, reward terms, gains by user, coverage and popularity,
    monitors and alarms, an explorer of users' denoising chains, and what is needed to repeat it. Several runs
    on the same data are shown side by side. Of a study: its tables, curves, gains by user, and sources.
    """

    work: ClassVar[str] = "agents.commands.report_run:run"

    sources: tyro.conf.Positional[
        Annotated[tuple[Path, ...], tyro.conf.arg(name="run-or-study", metavar="RUN|STUDY")]
    ]
    """Run folders, or the folder (or STUDY.jsonl) of ``refit compare``."""
    out: Path
    """Folder of the page, ``report.html``."""
    users: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID [ID ...]")] = ()
    """Users, by their source's ids, whom the explorer holds besides those that it chooses."""
    explore: Annotated[int, Meta(ge=0, le=100_000)] = 200
    """Number of users that the explorer chooses: those with the largest gains and losses, the fewest and the
    most train items, and random ones."""
    without_data: Flag = False
    """Leave out what needs the data and the models: gains by user, popularity, the explorer."""
    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` ..."""
    overwrite: Flag = False
    """Replace the report in ``--out``."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    command: Report = parse(Report, words, "refit report")
    return command.run()
