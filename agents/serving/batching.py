"""Collects requests that wait while the model is busy, and ranks them in one call.

Letters: B people of a request, K list length.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from agents.serving.limits import Limits
from agents.serving.ranker import Query, Ranked
from agents.serving.served import Served

Result = TypeVar("Result")


class Busy(Exception):
    """Too many requests wait."""


Answer = tuple[list[Ranked], float, float]


@dataclass(eq=False)
class Job:
    """One request that waits for its lists."""

    model: Served
    """The model that the request was checked by."""
    queries: Sequence[Query]
    """(B,) whose lists."""
    top: int
    """K."""
    done: asyncio.Future[Answer]
    """Its lists, and when the model's call began and ended."""
    came: float = field(default_factory=time.perf_counter)
    """When it came."""


@dataclass(frozen=True)
class Spent:
    """Where a request's time went, in seconds."""

    waiting: float
    """For the calls before."""
    model: float
    """In the call of the model."""


class Batcher:
    """One thread that calls the model; while it is busy, requests wait and become the next call.

    So a request that comes alone is ranked at once, and under load the batches grow by themselves.

    Attributes:
        limits: size of a batch and of the queue.
        waiting: people that wait.
    """

    def __init__(self, limits: Limits, observe: Callable[[int, float], None] | None = None) -> None:
        """Start without requests.

        Args:
            limits: size of a batch and of the queue.
            observe: called with the people and the seconds of each call of the model.
        """
        self.limits, self.waiting = limits, 0
        self._observe = observe
        self._jobs: deque[Job] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._loop: asyncio.Task[None] | None = None

    async def rank(self, model: Served, queries: Sequence[Query], top: int) -> tuple[list[Ranked], Spent]:
        """Return the lists of a request, and where its time went.

        Raises:
            Busy: if too many wait.
        """
        job = Job(model, queries, top, asyncio.get_running_loop().create_future())
        self._admit(len(queries))
        try:
            self._jobs.append(job)
            if self._loop is None:
                self._loop = asyncio.create_task(self._work())
            lists, began, ended = await job.done
        finally:
            self.waiting -= len(queries)
        return lists, Spent(began - job.came, ended - began)

    async def call(self, function: Callable[[], Result]) -> Result:
        """Return the result of a function that the model's thread calls between two batches.

        Raises:
            Busy: if too many wait.
        """
        self._admit(1)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function)
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """End the thread when its call is done."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _admit(self, people: int) -> None:
        if self.waiting + people > self.limits.queue:
            raise Busy(f"{self.waiting} users and histories wait already; try again in a second")
        self.waiting += people

    async def _work(self) -> None:
        """Call the model until no request waits."""
        try:
            while batch := self._next():
                await self._call(batch)
        finally:
            self._loop = None

    def _next(self) -> list[Job]:
        """Take the requests of the next call: of one model, as many people as fit."""
        batch, people = list[Job](), 0
        while self._jobs:
            job = self._jobs[0]
            if job.done.done():  # its time ran out
                self._jobs.popleft()
                continue
            if batch and (job.model is not batch[0].model or people + len(job.queries) > self.limits.batch):
                break
            people += len(job.queries)
            batch.append(self._jobs.popleft())
        return batch

    async def _call(self, batch: Sequence[Job]) -> None:
        """Rank a batch and hand each request its lists, or the error."""
        queries = [query for job in batch for query in job.queries]
        top, ranker = max(job.top for job in batch), batch[0].model.ranker

        def ranked() -> Answer:
            began = time.perf_counter()
            return ranker.rank(queries, top), began, time.perf_counter()

        try:
            lists, began, ended = await asyncio.get_running_loop().run_in_executor(self._thread, ranked)
        except Exception as error:
            for job in batch:
                if not job.done.done():
                    job.done.set_exception(error)
            return
        if self._observe is not None:
            self._observe(len(queries), ended - began)
        place = 0
        for job in batch:
            own = lists[place : place + len(job.queries)]
            place += len(job.queries)
            if not job.done.done():
                cut = [Ranked(one.items[: job.top], one.scores[: job.top]) for one in own]
                job.done.set_result((cut, began, ended))
