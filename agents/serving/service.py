"""The state of the HTTP service: the model that answers, its batches and metrics, the change to a new run."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from agents.runs.files import METRICS, POLICY
from agents.serving.batching import Batcher, Spent
from agents.serving.limits import Limits
from agents.serving.ranker import Query, Ranked
from agents.serving.served import Served
from refit_env.utils.atomic_io import file_state
from refit_env.utils.text import shown

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper ends of the histograms' buckets."""


class TooMuch(ValueError):
    """A request is larger than a limit of the service."""


def reason(error: ValueError | OSError) -> str:
    """Return in one line why a run cannot be served.

    Example:
        >>> reason(OSError(36, "File name too long", "runs/" + 300 * "a")).endswith("...: File name too long")
        True
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{shown(str(error.filename))}: {error.strerror}"
    return str(error)[:500]


class Gauges:
    """The service's Prometheus metrics, in a registry of their own."""

    def __init__(self) -> None:
        """Create them."""
        registry = self.registry = CollectorRegistry()
        self.requests = Counter("refit_requests", "Answered requests", ("route", "status"), registry=registry)
        self.seconds = Histogram(
            "refit_request_seconds", "Time to answer", ("route",), buckets=SECONDS, registry=registry
        )
        self.model_seconds = Histogram(
            "refit_model_seconds", "Time of a call of the model", buckets=SECONDS, registry=registry
        )
        self.people = Histogram(
            "refit_batch_people",
            "Users and histories in a call of the model",
            buckets=[2**power for power in range(11)],
            registry=registry,
        )
        self.waiting = Gauge("refit_waiting_people", "Users and histories that wait", registry=registry)
        self.reloads = Counter("refit_reloads", "Changes to a new run", ("result",), registry=registry)
        self.model = Gauge(
            "refit_model_info", "The model that answers", ("run", "weights", "dataset"), registry=registry
        )
        ProcessCollector(registry=registry)

    def observe(self, people: int, seconds: float) -> None:
        """Count a call of the model."""
        self.people.observe(people)
        self.model_seconds.observe(seconds)

    def show(self, model: Served) -> None:
        """State which model answers."""
        self.model.clear()
        self.model.labels(model.run.name, model.weights, model.dataset.name).set(1)


@dataclass(eq=False)
class Service:
    """One model behind HTTP; a new run replaces it while requests go on."""

    load: Callable[[Path], Served]
    """Loads a run folder."""
    run: Path
    """The run folder that is served, and read again by ``reload``."""
    name: str = "recommender"
    """Name of the model in the routes of the Open Inference Protocol."""
    limits: Limits = field(default_factory=Limits)
    """What requests may hold."""
    token: str = ""
    """What requests must present; empty: none, and no reload over HTTP."""
    watch: float = 0.0
    """Seconds between two checks of the run folder for a new model; 0: none."""

    def __post_init__(self) -> None:
        """Load the model.

        Raises:
            ValueError: if the run cannot be served; the message says why.
        """
        self.gauges = Gauges()
        self.batcher = Batcher(self.limits, self.gauges.observe)
        self.gauges.waiting.set_function(lambda: self.batcher.waiting)
        self.model = self._loaded(self.run)
        self._seen = self.state()
        self._reloading = asyncio.Lock()
        self.gauges.show(self.model)

    def _loaded(self, run: Path) -> Served:
        model = self.load(run)
        model.warm()
        return model

    def allows(self, header: str | None) -> bool:
        """Return whether an ``Authorization`` header holds the token."""
        given = (header or "").encode("utf-8", "replace")
        return not self.token or hmac.compare_digest(given, f"Bearer {self.token}".encode())

    async def rank(self, queries: Sequence[Query], top: int, model: Served) -> tuple[list[Ranked], Spent]:
        """Return the lists of a request.

        Raises:
            TooMuch: if it is larger than a limit.
            Busy: if too many requests wait.
        """
        self.check("users or histories", len(queries), self.limits.batch)
        self.check("top", top, self.limits.top)
        for query in queries:
            self.check("items of a history", len(query.history), self.limits.history)
            self.check("excluded items", len(query.hidden), self.limits.history)
        return await self.batcher.rank(model, queries, top)

    def check(self, what: str, found: int, most: int) -> None:
        """Refuse a number beyond a limit.

        Raises:
            TooMuch: if it is.
        """
        if found > most:
            raise TooMuch(f"{what}: at most {most} in a request, found {found}")

    async def reload(self, name: str | None = None) -> Served:
        """Load a run and answer by it from then on; requests in progress keep the former model.

        Args:
            name: of a folder beside the run folder; None: the run folder itself.

        Raises:
            ValueError: if it cannot be served; the former model stays.
            OSError: if it cannot be read; the former model stays.
        """
        async with self._reloading:
            run = self.run if name is None else self.run.parent / name
            if name is not None and (Path(name).name != name or name in (".", "..")):
                raise ValueError(f"run {name!r} must be the name of a folder beside {self.run.name}, no path")
            state = self.state()
            try:
                model = await asyncio.to_thread(self._loaded, run)
            except (ValueError, OSError):
                self.gauges.reloads.labels("failed").inc()
                raise
            finally:
                self._seen = state
            self.model = model
            self.gauges.reloads.labels("done").inc()
            self.gauges.show(model)
            return model

    def state(self) -> tuple[object, ...]:
        """Return a key that changes when the run folder holds another model."""
        return tuple(file_state(self.run / name) for name in (POLICY, METRICS))

    async def watching(self, note: Callable[[str], None]) -> None:
        """Reload whenever the run folder holds another finished model; never ends.

        Args:
            note: called with one line about each change.
        """
        while True:
            await asyncio.sleep(self.watch)
            state = self.state()
            if state == self._seen or None in state:
                continue
            try:
                model = await self.reload()
                note(f"serving the new model {model.weights[:12]} of {self.run}")
            except (ValueError, OSError) as error:
                note(f"the new model of {self.run} is not served, the former one is: {reason(error)}")

    def clock(self) -> float:
        """Return the time in seconds, for durations."""
        return time.perf_counter()
