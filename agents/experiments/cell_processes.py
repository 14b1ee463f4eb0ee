"""The processes of cells: each cell in one of its own, on this machine.

A process of its own gives each cell its own peak of memory, and one thread lets as many cells run as there
are cores.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

from agents.experiments.provenance import provenance
from agents.experiments.records import Cell, append_record
from refit_env.settings import plain

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What the numerical libraries read at their start."""
GRACE = 10.0
"""Seconds that a process has to end by itself after a signal."""


class Engine(Protocol):
    """Runs cells, for example in processes of this machine."""

    def begin(self, cell: Cell, records: Path, command: str) -> Any:
        """Start a cell, which writes its record; returns what the other methods know it by."""

    def ended(self, runs: Sequence[Any], seconds: float | None) -> list[Any]:
        """Wait until a run has ended, or for some seconds; returns those that have."""

    def error(self, run: Any) -> str:
        """Return what went wrong in a run that ended; empty where nothing did."""

    def stop(self, runs: Sequence[Any]) -> None:
        """End runs."""


@dataclass(frozen=True, eq=False)
class _Run:
    """A cell's process."""

    process: SpawnProcess
    pipe: Connection


class Processes:
    """Processes of this machine, one thread each."""

    def begin(self, cell: Cell, records: Path, command: str) -> _Run:
        """Start a cell's process; spawned, so that it inherits neither memory nor threads."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=work_in_process, args=(cell, records, theirs, command), name=cell.key
        )
        with _one_thread(), _ctrl_c_held_back():
            process.start()
        theirs.close()
        return _Run(process, ours)

    def ended(self, runs: Sequence[_Run], seconds: float | None) -> list[_Run]:
        """See ``Engine``."""
        ready = wait([run.process.sentinel for run in runs], seconds)
        return [run for run in runs if run.process.sentinel in ready]

    def error(self, run: _Run) -> str:
        """See ``Engine``."""
        run.process.join()
        try:
            error = str(run.pipe.recv()) if run.pipe.poll() else _death(run.process.exitcode)
        except EOFError:
            error = _death(run.process.exitcode)
        run.pipe.close()
        return error

    def stop(self, runs: Sequence[_Run]) -> None:
        """See ``Engine``."""
        for run in runs:
            run.process.terminate()
        for run in runs:
            run.process.join(GRACE)
            run.process.kill()
            run.process.join()


def _death(code: int | None) -> str:
    """What an exit without a word may mean."""
    hints = {-9: " (killed: out of memory?)", -15: " (ended by SIGTERM)", 130: " (interrupted)"}
    return f"its process ended with code {code}{hints.get(code or 0, '')}"


def work_in_process(cell: Cell, records: Path, pipe: Connection, command: str) -> None:
    """What a cell's process does: the work, its record, and one word of how it went (empty: well)."""
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        pipe.send(attempt(cell, records, command))
    except KeyboardInterrupt:
        sys.exit(130)


def attempt(cell: Cell, records: Path, command: str) -> str:
    """Do a cell's work and write its record; returns what went wrong, whose traceback is then in a file."""
    try:
        do_cell(cell, records, command)
    except Exception as error:
        path = cell.error_path(records)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(traceback.format_exc(), encoding="utf-8")
        return f"{type(error).__name__}: {error}"[:2000]
    return ""


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
