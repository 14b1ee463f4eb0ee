"""Measurements that survive interruptions: one record a cell, each cell in a process of its own.

A cell is one measurement of a long table. What is finished is never done again; what failed is reported, does
not stop the others, and is tried again the next time. Cells run in processes of this machine
(``cell_processes``), or in those of a Ray cluster (``ray_cells``).

A cell that runs is locked, so that several commands may share a file of records: each starts cells that no
other has, and waits for what another is making.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from agents.experiments.cell_processes import Engine, Processes
from agents.experiments.provenance import command_line
from agents.experiments.records import LOCKS, Cell, read_cell, read_records, unfinished

POLL = 0.5
"""Seconds between two tries for a cell that another command has."""


@dataclass(frozen=True)
class Outcome:
    """What became of a cell that was run."""

    cell: Cell
    """Which."""
    result: dict[str, Any] | None
    """Its record; None where it failed."""
    error: str
    """What went wrong; empty where nothing did."""
    seconds: float
    """Wall-clock time, the process's start included."""


@dataclass
class _Job:
    """A cell that runs now."""

    cell: Cell
    run: Any
    lock: FileLock
    begin: float = field(default_factory=time.perf_counter)


def run_cells(
    cells: Sequence[Cell],
    records: Path,
    *,
    workers: int = 2,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
    redo: bool = False,
    engine: Engine | None = None,
) -> dict[str, str]:
    """Run what is missing; a cell begins as soon as a worker is free and its needs are finished.

    Args:
        cells: in the order in which they are begun, where needs allow.
        records: the file that they are written to.
        workers: cells that run at once.
        on_end: called after each cell that ran, or could not.
        redo: measure stale cells again; their records count until there are new ones.
        engine: where cells run; processes of this machine if None.

    Returns:
        Key -> error of the cells that failed; empty when all are finished.

    Raises:
        CellError: before anything runs, if a finished cell is stale and not to be measured again.
        ValueError: for less than one worker, a repeated key, or a need that is no cell.
    """
    _check(cells, workers)
    engine = Processes() if engine is None else engine
    missing = unfinished(cells, records, redo=redo)
    needed = {need for cell in missing for need in cell.needs}
    waiting = [cell for cell in cells if cell in missing or (cell.key in needed and _lost(cell))]
    queue = _Queue(records, waiting, {cell.key for cell in cells if cell not in waiting}, redo, engine)
    running: list[_Job] = []
    try:
        while queue.waiting or running:
            for outcome in queue.give_up():
                on_end(outcome)
            while len(running) < workers and (job := queue.begin()) is not None:
                running.append(job)
            if not running:
                time.sleep(POLL if queue.waiting else 0)  # other commands have what is left
                continue
            idle = queue.waiting and len(running) < workers
            ended = engine.ended([job.run for job in running], POLL if idle else None)
            for job in [job for job in running if job.run in ended]:
                running.remove(job)
                outcome = _end(job, engine, records)
                queue.take(outcome)
                on_end(outcome)
    except KeyboardInterrupt:
        done = len({cell.key for cell in cells} & read_records(records).keys())
        text = f"{done} of {len(cells)} cells are finished and kept; the same command goes on"
        raise KeyboardInterrupt(text) from None
    finally:  # interrupted: what has not been written is not finished
        engine.stop([job.run for job in running])
        for job in running:
            job.lock.release()
    return queue.failed


@dataclass
class _Queue:
    """The cells that are still to begin, and what has become of the others."""

    records: Path
    waiting: list[Cell]
    finished: set[str]
    redo: bool
    engine: Engine = field(default_factory=Processes)
    failed: dict[str, str] = field(default_factory=dict)
    command: str = field(default_factory=command_line)

    def give_up(self) -> list[Outcome]:
        """Fail the cells whose needs have failed."""
        lost = []
        for cell in list(self.waiting):
            if needs := [need for need in cell.needs if need in self.failed]:
                self.waiting.remove(cell)
                self.failed[cell.key] = f"needs {', '.join(needs)}, which failed"
                lost.append(Outcome(cell, None, self.failed[cell.key], 0.0))
        return lost

    def begin(self) -> _Job | None:
        """Start the first cell whose needs are finished and that no other command has; None without one."""
        for cell in list(self.waiting):
            if not self.finished.issuperset(cell.needs):
                continue
            if not all(map(self._is_still, cell.needs)):
                continue
            if (lock := _try_lock(self.records, cell.key)) is None:
                continue
            self.waiting.remove(cell)
            if _lost(cell) or unfinished([cell], self.records, redo=self.redo):
                return _Job(cell, self.engine.begin(cell, self.records, self.command), lock)
            lock.release()  # another command did it meanwhile
            self.finished.add(cell.key)
        return None

    def take(self, outcome: Outcome) -> None:
        """Note how a cell ended."""
        if outcome.error:
            self.failed[outcome.cell.key] = outcome.error
        else:
            self.finished.add(outcome.cell.key)

    def _is_still(self, key: str) -> bool:
        """Whether no other command is making a cell again."""
        lock = _try_lock(self.records, key)
        if lock is not None:
            lock.release()
        return lock is not None


def _try_lock(records: Path, key: str) -> FileLock | None:
    """The lock of a cell; None where another command has it."""
    (records.parent / LOCKS).mkdir(parents=True, exist_ok=True)
    lock = FileLock(records.parent / LOCKS / f"{records.stem}.{key}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def _lost(cell: Cell) -> bool:
    """Whether what a finished cell left for others is gone."""
    return cell.leaves is not None and not cell.leaves.exists()


def _check(cells: Sequence[Cell], workers: int) -> None:
    """Refuse lists that could never be finished."""
    if workers < 1:
        raise ValueError(f"workers={workers} must be at least 1")
    keys = [cell.key for cell in cells]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"two cells have the key {key!r}")
    for place, cell in enumerate(cells):
        for need in cell.needs:
            if need not in keys[:place]:
                raise ValueError(f"cell {cell.key!r} needs {need!r}, which is not before it")


def _end(job: _Job, engine: Engine, records: Path) -> Outcome:
    """Take in what a cell that ended has left."""
    error = engine.error(job.run)
    seconds = time.perf_counter() - job.begin
    job.lock.release()
    return Outcome(job.cell, None if error else read_cell(records, job.cell), error, seconds)
