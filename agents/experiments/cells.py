"""Measurements that survive interruptions: one record a cell, each cell in a process of its own.

A cell is one measurement of a long table. What is finished is never done again; what failed is reported, does
not stop the others, and is tried again the next time. A process of its own gives each cell its own peak of
memory, and one thread lets as many cells run as there are cores.

A cell that runs is locked, so that several commands may share a file of records: each starts cells that no
other has, and waits for what another is making.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Thread
from typing import Any

from filelock import FileLock, Timeout

from agents.experiments.provenance import command_line, provenance
from agents.experiments.records import LOCKS, Cell, append_record, plain, read_cell, read_records, unfinished

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What the numerical libraries read at their start."""
GRACE = 10.0
"""Seconds that a process has to end by itself after a signal."""
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
    process: SpawnProcess
    pipe: Connection
    lock: FileLock
    begin: float = field(default_factory=time.perf_counter)


def run_cells(
    cells: Sequence[Cell],
    records: Path,
    *,
    workers: int = 2,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
    redo: bool = False,
) -> dict[str, str]:
    """Run what is missing; a cell begins as soon as a worker is free and its needs are finished.

    Args:
        cells: in the order in which they are begun, where needs allow.
        records: the file that they are written to.
        workers: cells that run at once.
        on_end: called after each cell that ran, or could not.
        redo: measure stale cells again; their records count until there are new ones.

    Returns:
        Key -> error of the cells that failed; empty when all are finished.

    Raises:
        CellError: before anything runs, if a finished cell is stale and not to be measured again.
        ValueError: for less than one worker, a repeated key, or a need that is no cell.
    """
    _check(cells, workers)
    missing = unfinished(cells, records, redo=redo)
    needed = {need for cell in missing for need in cell.needs}
    waiting = [cell for cell in cells if cell in missing or (cell.key in needed and _lost(cell))]
    queue = _Queue(records, waiting, {cell.key for cell in cells if cell not in waiting}, redo)
    running: dict[int, _Job] = {}
    try:
        while queue.waiting or running:
            for outcome in queue.give_up():
                on_end(outcome)
            while len(running) < workers and (job := queue.begin()) is not None:
                running[job.process.sentinel] = job
            if not running:
                time.sleep(POLL if queue.waiting else 0)  # other commands have what is left
                continue
            ended = wait(list(running), POLL if queue.waiting and len(running) < workers else None)
            for sentinel in [sentinel for sentinel in running if sentinel in ended]:
                outcome = _end(running.pop(sentinel), records)
                queue.take(outcome)
                on_end(outcome)
    except KeyboardInterrupt:
        done = len({cell.key for cell in cells} & read_records(records).keys())
        text = f"{done} of {len(cells)} cells are finished and kept; the same command goes on"
        raise KeyboardInterrupt(text) from None
    finally:  # interrupted: what has not been written is not finished
        for job in running.values():
            job.process.terminate()
        for job in running.values():
            job.process.join(GRACE)
            job.process.kill()
            job.process.join()
            job.lock.release()
    return queue.failed


@dataclass
class _Queue:
    """The cells that are still to begin, and what has become of the others."""

    records: Path
    waiting: list[Cell]
    finished: set[str]
    redo: bool
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
                return _begin(cell, self.records, lock, self.command)
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


def _begin(cell: Cell, records: Path, lock: FileLock, command: str) -> _Job:
    """Start a cell's process; spawned, so that it inherits neither memory nor threads."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work_in_process, args=(cell, records, theirs, command), name=cell.key)
    with _one_thread(), _ctrl_c_held_back():
        process.start()
    theirs.close()
    return _Job(cell, process, ours, lock)


def _end(job: _Job, records: Path) -> Outcome:
    """Take in what a process that ended has left."""
    job.process.join()
    seconds = time.perf_counter() - job.begin
    try:
        error = str(job.pipe.recv()) if job.pipe.poll() else _death(job.process.exitcode)
    except EOFError:
        error = _death(job.process.exitcode)
    job.pipe.close()
    job.lock.release()
    return Outcome(job.cell, None if error else read_cell(records, job.cell), error, seconds)


def _death(code: int | None) -> str:
    """What an exit without a word may mean."""
    hints = {-9: " (killed: out of memory?)", -15: " (ended by SIGTERM)", 130: " (interrupted)"}
    return f"its process ended with code {code}{hints.get(code or 0, '')}"


def work_in_process(cell: Cell, records: Path, pipe: Connection, command: str) -> None:
    """What a cell's process does: the work, its record, and one word of how it went (empty: well)."""
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        do_cell(cell, records, command)
        pipe.send("")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        path = cell.error_path(records)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(traceback.format_exc(), encoding="utf-8")
        pipe.send(f"{type(error).__name__}: {error}"[:2000])


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, even where that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def do_cell(cell: Cell, records: Path, command: str = "") -> dict[str, Any]:
    """Do a cell's work here and now, and write its record.

    Args:
        cell: which.
        records: the file that it is written to.
        command: what the user typed; that of this process if empty.
    """
    source = provenance(cell.data, command)  # of the code that is about to run
    result = cell.work(*cell.arguments)
    content = {
        "key": cell.key,
        "settings": plain(dict(cell.settings)),
        "provenance": source.to_json(),
    } | result
    append_record(records, content)
    cell.error_path(records).unlink(missing_ok=True)
    return content


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Keep Ctrl-C, which reaches all processes of a terminal, from those started here: the parent ends them.

    A signal that comes meanwhile is delivered afterwards. On Windows the block changes nothing.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # once it runs, it leaves the mask alone
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that start here use one thread."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
