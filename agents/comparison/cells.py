"""Measurements that survive interruptions: one JSON file a cell, each cell in a process of its own.

A cell is one measurement of a long table. What is finished is never done again; what failed is told, does
not stop the others, and is tried again the next time. A process of its own gives each cell its own peak of
memory, and one thread lets as many cells run as there are cores.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Thread
from typing import Any

from refit_env.files import read_json, write_json

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What the numerical libraries read at their start."""


class CellError(ValueError):
    """A folder holds a cell that was made with other settings than those asked for."""


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        key: stem of its file; unlike every other's.
        work: a function of a module, called with ``arguments``; what it returns is JSON-plain.
        arguments: picklable.
        settings: JSON-plain; whatever decides the result. Kept in the file, and a file with others is
            refused. None keeps none and checks none.
        needs: keys of the cells that must be finished before this one begins.
        leaves: a file besides its own that others work with. Where it is gone (it was not kept with the
            results) and one of them is still to run, the cell is run again.
    """

    key: str
    work: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...] = ()
    settings: Mapping[str, Any] | None = None
    needs: tuple[str, ...] = ()
    leaves: Path | None = None

    def path(self, folder: Path) -> Path:
        """Its file."""
        return folder / f"{self.key}.json"

    def error_path(self, folder: Path) -> Path:
        """The traceback of its last failure."""
        return folder / f"{self.key}.error.txt"


@dataclass(frozen=True)
class Outcome:
    """What became of a cell that was run."""

    cell: Cell
    """Which."""
    result: dict[str, Any] | None
    """What its file holds; None where it failed."""
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
    begin: float = field(default_factory=time.perf_counter)


def read_cell(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """What a cell's file holds; None where there is none.

    Raises:
        CellError: if it was made with other settings; the message says which differ.
    """
    path = cell.path(folder)
    if not path.exists():
        return None
    found: dict[str, Any] = read_json(path)
    if cell.settings is not None:
        changed = differences(found.get("settings"), json.loads(json.dumps(cell.settings)))
        if changed:
            raise CellError(
                f"{path} was made with other settings ({'; '.join(changed)}). "
                "Delete the file to measure it again, or choose another folder with --out."
            )
    return found


def unfinished(cells: Sequence[Cell], folder: Path) -> list[Cell]:
    """The cells that have no file yet.

    Raises:
        CellError: naming every file that was made with other settings, so that one look is enough.
    """
    missing, wrong = [], []
    for cell in cells:
        try:
            if read_cell(folder, cell) is None:
                missing.append(cell)
        except CellError as error:
            wrong.append(str(error))
    if wrong:
        raise CellError("\n".join(wrong))
    return missing


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Say in which entries two JSON values differ.

    Example:
        >>> differences({"seed": 0, "agent": {"lr": 1}}, {"seed": 0, "agent": {"lr": 2}})
        ['agent.lr was 1, now 2']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        out = []
        for key in sorted(old.keys() | new.keys()):
            out += differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
        return out
    return [] if old == new else [f"{name or 'settings'} was {old!r}, now {new!r}"]


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    *,
    workers: int = 2,
    tell: Callable[[Outcome], None] = lambda outcome: None,
) -> dict[str, str]:
    """Run what is missing; a cell begins as soon as a worker is free and its needs are finished.

    Args:
        cells: in the order in which they are begun, where needs allow.
        folder: where their files go.
        workers: cells that run at once.
        tell: called after each cell that ran, or could not.

    Returns:
        Key -> error of the cells that failed; empty when all are finished.

    Raises:
        CellError: before anything runs, if a finished cell has other settings.
        ValueError: for less than one worker, a key that stands twice, or a need that is no cell.
    """
    _check(cells, workers)
    missing = unfinished(cells, folder)
    needed = {need for cell in missing for need in cell.needs}
    waiting = [cell for cell in cells if cell in missing or (cell.key in needed and _lost(cell))]
    finished = {cell.key for cell in cells if cell not in waiting}
    running: dict[int, _Job] = {}
    failed: dict[str, str] = {}
    try:
        while waiting or running:
            for cell in [cell for cell in waiting if any(need in failed for need in cell.needs)]:
                waiting.remove(cell)
                lost = ", ".join(need for need in cell.needs if need in failed)
                failed[cell.key] = f"needs {lost}, which failed"
                tell(Outcome(cell, None, failed[cell.key], 0.0))
            for cell in [cell for cell in waiting if finished.issuperset(cell.needs)]:
                if len(running) == workers:
                    break
                waiting.remove(cell)
                if _lost(cell) or unfinished([cell], folder):
                    job = _begin(cell, folder)
                    running[job.process.sentinel] = job
                else:  # another process did it meanwhile
                    finished.add(cell.key)
            ended = wait(list(running)) if running else []
            for sentinel in [sentinel for sentinel in running if sentinel in ended]:
                outcome = _end(running.pop(sentinel), folder)
                if outcome.error:
                    failed[outcome.cell.key] = outcome.error
                else:
                    finished.add(outcome.cell.key)
                tell(outcome)
    finally:
        for job in running.values():  # interrupted: what has not been written is not finished
            job.process.terminate()
            job.process.join()
    return failed


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
                raise ValueError(f"cell {cell.key!r} needs {need!r}, which does not stand before it")


def _begin(cell: Cell, folder: Path) -> _Job:
    """Start a cell's process; spawned, so that it inherits neither memory nor threads."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work_in_process, args=(cell, folder, theirs), name=cell.key)
    with _one_thread():
        process.start()
    theirs.close()
    return _Job(cell, process, ours)


def _end(job: _Job, folder: Path) -> Outcome:
    """Take in what a process that ended has left."""
    job.process.join()
    seconds = time.perf_counter() - job.begin
    try:
        error = str(job.pipe.recv()) if job.pipe.poll() else _death(job.process.exitcode)
    except EOFError:
        error = _death(job.process.exitcode)
    job.pipe.close()
    return Outcome(job.cell, None if error else read_cell(folder, job.cell), error, seconds)


def _death(code: int | None) -> str:
    """What an exit without a word may mean."""
    hint = " (killed: out of memory?)" if code == -9 else ""
    return f"its process ended with code {code}{hint}"


def work_in_process(cell: Cell, folder: Path, pipe: Connection) -> None:
    """What a cell's process does: the work, its file, and one word of how it went (empty: well)."""
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        do_cell(cell, folder)
        pipe.send("")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        cell.error_path(folder).write_text(traceback.format_exc(), encoding="utf-8")
        pipe.send(f"{type(error).__name__}: {error}"[:2000])


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, even where that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def do_cell(cell: Cell, folder: Path) -> dict[str, Any]:
    """Do a cell's work here and now, and write its file."""
    result = cell.work(*cell.arguments)
    content = result if cell.settings is None else {"settings": dict(cell.settings)} | result
    write_json(cell.path(folder), content)
    cell.error_path(folder).unlink(missing_ok=True)
    return content


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
