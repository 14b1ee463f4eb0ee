"""Cells on a Ray cluster: each is a task, in a process of a worker that then ends.

The machines must see the same folder of records and checkpoints, and have this package and the data.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agents.experiments.cell_processes import THREADS, attempt
from agents.experiments.records import Cell
from refit_env.data.home import HOME_VARIABLE
from refit_env.errors import MissingExtraError


class RayTasks:
    """The tasks of a Ray cluster, one processor each."""

    def __init__(self, ray: Any, *, gpu: bool) -> None:
        """Use a cluster that this process is connected with; with ``gpu`` a cell has one of its own."""
        self._ray = ray
        passed = {name: os.environ[name] for name in (HOME_VARIABLE, "PYTHONPATH") if name in os.environ}
        settings = ray.remote(
            num_cpus=1,
            num_gpus=1 if gpu else 0,
            max_retries=0,
            max_calls=1,  # so that the peak of memory is the cell's own
            runtime_env={"env_vars": passed | dict.fromkeys(THREADS, "1")},
        )
        self._task = settings(attempt)

    def begin(self, cell: Cell, records: Path, command: str) -> Any:
        """See ``Engine``."""
        return self._task.remote(cell, records, command)

    def ended(self, runs: Sequence[Any], seconds: float | None) -> list[Any]:
        """See ``Engine``."""
        ready, _ = self._ray.wait(list(runs), num_returns=1, timeout=seconds, fetch_local=False)
        return list(ready)

    def error(self, run: Any) -> str:
        """See ``Engine``."""
        try:
            return str(self._ray.get(run))
        except self._ray.exceptions.RayError as error:
            return f"{type(error).__name__}: {error}"[:2000]

    def stop(self, runs: Sequence[Any]) -> None:
        """See ``Engine``."""
        for run in runs:
            self._ray.cancel(run, force=True)


@contextmanager
def ray_tasks(workers: int, *, gpu: bool = False) -> Iterator[RayTasks]:
    """Connect with the cluster of ``RAY_ADDRESS``, or start one on this machine and end it afterwards.

    Args:
        workers: processors of a cluster that is started here.
        gpu: whether each cell has a GPU of its own.

    Raises:
        MissingExtraError: if Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("--engine ray", "Ray", "ray") from error
    started = not ray.is_initialized()
    if started:
        own = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers}
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **own)
    try:
        yield RayTasks(ray, gpu=gpu)
    finally:
        if started:
            ray.shutdown()
