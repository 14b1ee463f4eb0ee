"""Common functions of the benchmarks: alternating timing, a table on the terminal, a JSON file.

Contestants alternate within each round, so that changes of the machine's speed affect all of them; the median
over the rounds is the result, the quartiles are its spread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.console import say
from agents.experiments.cell_processes import do_cell
from agents.experiments.cells import Outcome, run_cells
from agents.experiments.provenance import provenance as here
from agents.experiments.provenance import sources
from agents.experiments.records import Cell, CellError, unfinished
from agents.experiments.tables import TextTable, print_table
from refit_env.utils.atomic_io import write_json

RESULTS = Path(__file__).resolve().parent / "results"
"""Folder of the result files, which ``docs/make_results.py`` reads."""


@dataclass(frozen=True)
class Timing:
    """The seconds of one contestant over the rounds.

    Attributes:
        seconds: one number per round.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile."""
        low, high = np.percentile(self.seconds, [25, 75])
        return float(low), float(high)


def in_turns(
    contestants: Mapping[str, Callable[[], Any]],
    rounds: int = 9,
    min_seconds: float = 0.05,
    clock: Callable[[], float] = time.perf_counter,
    until: float = float("inf"),
) -> dict[str, Timing]:
    """Time contestants alternately.

    Each is called once without timing (twice, if it is short), then in every round as often as needed to last
    ``min_seconds``.

    Args:
        contestants: name -> the function to time.
        rounds: number of rounds.
        min_seconds: duration of a contestant in a round.
        clock: returns seconds; ``time.process_time`` counts those of this process's threads alone.
        until: the value of ``time.perf_counter`` after which no round begins but the first.

    Returns:
        Seconds of one call, by name; of all contestants as many.

    Example:
        >>> timings = in_turns({"nothing": lambda: None, "nap": lambda: time.sleep(0.002)}, rounds=3)
        >>> timings["nothing"].median < timings["nap"].median
        True
    """
    repeats = {}
    for name, call in contestants.items():
        first = _once(call, clock)  # warm-up included
        usual = first if first >= 10 * min_seconds else _once(call, clock)
        repeats[name] = max(1, round(min_seconds / max(usual, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        if number and time.perf_counter() > until:
            break
        for name, call in contestants.items():
            begin = clock()
            for _ in range(repeats[name]):
                call()
            seconds[name].append((clock() - begin) / repeats[name])
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def _once(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Measure the seconds of one call."""
    begin = clock()
    call()
    return clock() - begin


def say_outcome(outcome: Outcome) -> None:
    """Print which cell ended and its seconds, to the standard error; of one that failed, its error."""
    took = f"{outcome.seconds:.0f} s"
    say(f"{outcome.cell.key}: {f'{outcome.error} ({took})' if outcome.error else took}", stderr=True)


def finish_cells(
    cells: Sequence[Cell],
    path: Path,
    *,
    redo: bool = False,
    on_end: Callable[[Outcome], None] = say_outcome,
) -> None:
    """Measure the cells that are not in the file of records, one after the other.

    Args:
        cells: all cells of a table.
        path: the records.
        redo: measure stale cells again.
        on_end: called after each cell that was measured, or could not be.

    Raises:
        SystemExit: naming stale cells, or those that failed.
    """
    try:
        failed = run_cells(cells, path, workers=1, redo=redo, on_end=on_end)
    except CellError as error:
        raise SystemExit(str(error)) from None
    if failed:
        raise SystemExit("\n".join(f"{key}: {error}" for key, error in failed.items()))


def finish_here(cells: Sequence[Cell], path: Path, *, redo: bool = False) -> None:
    """Measure the cells without a record, one after the other in this process: they share what it caches.

    Args:
        cells: all cells of a table.
        path: the records.
        redo: measure stale cells again.

    Raises:
        SystemExit: naming stale cells.
    """
    try:
        missing = unfinished(cells, path, redo=redo)
    except CellError as error:
        raise SystemExit(str(error)) from None
    for cell in missing:
        begin = time.perf_counter()
        result = do_cell(cell, path)
        say_outcome(Outcome(cell, result, "", time.perf_counter() - begin))


def report(
    name: str,
    *,
    title: str,
    command: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    note: str = "",
    folder: Path = RESULTS,
    provenance: Mapping[str, Any] | None = None,
    quiet: bool = False,
    **details: Any,
) -> Path:
    """Print the table and write the result file.

    Args:
        name: stem of the file.
        title: heading of the table.
        command: the command that reproduces it.
        columns: names of the columns; the first is text.
        rows: formatted cells.
        note: explanation of the table.
        folder: folder of the file.
        provenance: source of the figures (``provenance.sources`` of a table's cells); None for this process.
        quiet: print nothing.
        **details: raw figures for the file.

    Returns:
        The file.
    """
    if not quiet:
        print_table(TextTable(title, tuple(columns), tuple(tuple(row) for row in rows)))
        if note:
            say(note)
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"title": title, "command": command, "note": note}
    content["provenance"] = _here(command) if provenance is None else dict(provenance)
    write_json(
        path, content | {"table": {"columns": list(columns), "rows": [list(r) for r in rows]}} | details
    )
    return path


def _here(command: str) -> dict[str, Any]:
    """Return the provenance of figures that this process measured, with the machine and all versions."""
    made = here(command=command).to_json()
    return sources([{"provenance": made}]) | {name: made[name] for name in ("machine", "versions")}


def thousands(rate: float) -> str:
    """Format a rate for a table: 12.3 k, 1.06 M.

    Example:
        >>> thousands(12_345), thousands(1_061_000)
        ('12.3 k', '1.06 M')
    """
    return f"{rate / 1e6:.2f} M" if rate >= 1e6 else f"{rate / 1e3:.1f} k"
