"""Measures the latencies of ``refit serve`` on this machine, over the loopback.

    python -m benchmarks.serving RUN [RUN ...]            # 1, 8 and 64 clients, a minute each
    python -m benchmarks.serving RUN --records FILE --budget 280   # in pieces, kept in FILE

A client sends a request for one user's list, waits for the answer, and sends the next one, over one kept
connection. The service states in each answer how long the request waited for earlier calls of the model, and
how long its own call took; the rest of the latency is HTTP, JSON, ids and the clients themselves, which run
on the same processors. ``--repeats`` measures each cell again; the table has the repeat with the lowest p99,
and the load of the machine when it began.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from agents.console import say
from benchmarks.harness import RESULTS, report
from refit_env.data.known_ids import IDS
from refit_env.utils.atomic_io import read_json

CLIENTS = (1, 8, 64)
TARGETS = "p99 below 100 ms at 8 clients, below 10 ms of it not the model; no errors"
"""The targets of a machine with two processors."""
COLUMNS = (
    "run, clients",
    "users/s",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "model p99",
    "waiting p99",
    "rest p50",
    "rest p99",
    "CPU ms",
    "errors",
    "load",
)


@dataclass(frozen=True)
class Cell:
    """What one measurement found; milliseconds."""

    run: str
    """Name of the run folder."""
    model: str
    """Backbone, data set and steps."""
    clients: int
    """Clients at once."""
    seconds: float
    """Length of the measurement."""
    requests: int
    """Answers."""
    errors: dict[str, int]
    """Answers that were no list, and connections that broke during a request, by kind."""
    users_a_second: float
    """Lists in a second."""
    latency: dict[str, float]
    """p50, p95 and p99."""
    model_time: dict[str, float]
    """The same of a request's own call of the model."""
    waiting: dict[str, float]
    """The same of the time for earlier calls of the model."""
    rest: dict[str, float]
    """The same of the time that is neither."""
    cpu: float | None
    """Processor time of the service for a request, which other programs do not change much; Linux alone."""
    load: float
    """Load of the machine before, the mean over a minute."""


@dataclass
class Answer:
    """One answer's times in seconds."""

    latency: float
    model: float
    waiting: float


async def client(
    port: int, users: Sequence[str], end: float, answers: list[Answer], errors: Counter[str]
) -> None:
    """Send requests until the time ends; a connection that is closed between two of them is opened again."""
    number, fresh = 0, True
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < end:
        body = json.dumps({"users": [users[number % len(users)]], "top": 20}).encode()
        head = "POST /recommend HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        began = time.perf_counter()
        try:
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            status, headers, content = await answer(reader)
        except (OSError, asyncio.IncompleteReadError) as error:
            if fresh:
                errors[type(error).__name__] += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            fresh = True
            continue
        number, fresh = number + 1, False
        took = time.perf_counter() - began
        times = dict(re.findall(r"(\w+);dur=([\d.]+)", headers.get("server-timing", "")))
        if status != 200 or len(content) < 100 or "model" not in times:
            errors[f"{status} {content[:80].decode()}"] += 1
        else:
            answers.append(Answer(took, float(times["model"]) / 1000, float(times["wait"]) / 1000))
    writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Read one answer: status, headers, body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
    content = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers, content


@contextmanager
def service(run: Path, threads: int) -> Iterator[tuple[int, int, str]]:
    """Start ``refit serve``; yields its process, its port and what it serves."""
    command = [sys.executable, "-m", "agents", "serve", "--run", str(run), "--port", "0", "--device", "cpu"]
    command += ["--threads", str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"\((.*)\) on http://127\.0\.0\.1:(\d+)", line)
        if found is None:
            raise RuntimeError(f"refit serve --run {run} did not start: {line}")
        yield process.pid, int(found[2]), found[1]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


async def burst(
    port: int, users: Sequence[str], clients: int, seconds: float
) -> tuple[list[Answer], Counter[str]]:
    """Run clients at once; returns the answers, and the errors by kind."""
    answers: list[Answer] = []
    errors: Counter[str] = Counter()
    end = time.perf_counter() + seconds
    shares = [users[place::clients] or users for place in range(clients)]
    await asyncio.gather(*(client(port, share, end, answers, errors) for share in shares))
    return answers, errors


def processor_seconds(process: int) -> float | None:
    """Return the processor time that a process has used; None where /proc does not say."""
    stat = Path(f"/proc/{process}/stat")
    if not stat.exists():
        return None
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def measure(run: Path, started: tuple[int, int, str], clients: int, seconds: float, seed: int) -> Cell:
    """Measure one number of clients.

    Args:
        run: the run folder.
        started: the process, the port and what it serves.
        clients: clients at once.
        seconds: length of the measurement.
        seed: of the users' order.
    """
    process, port, model = started
    known = read_json(run / IDS)["users"]
    users = [str(known[place]) for place in np.random.default_rng(seed).permutation(len(known))]
    asyncio.run(burst(port, users, clients, min(2.0, seconds)))  # warms both sides
    load, before = os.getloadavg()[0], processor_seconds(process)
    answers, errors = asyncio.run(burst(port, users, clients, seconds))
    after = processor_seconds(process)
    used = None if before is None or after is None else 1000 * (after - before) / max(1, len(answers))
    latency = np.array([one.latency for one in answers])
    own, waited = (np.array([getattr(one, name) for one in answers]) for name in ("model", "waiting"))
    return Cell(
        run.name,
        model,
        clients,
        seconds,
        len(answers),
        dict(errors),
        len(answers) / seconds,
        percentiles(latency),
        percentiles(own),
        percentiles(waited),
        percentiles(latency - own - waited),
        used,
        load,
    )


def percentiles(seconds: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    """Return p50, p95 and p99 in milliseconds.

    Example:
        >>> percentiles(np.arange(101) / 1000)
        {'p50': 50.0, 'p95': 95.0, 'p99': 99.0}
    """
    values = np.percentile(seconds, [50, 95, 99]) if seconds.size else np.full(3, np.nan)
    return {
        name: round(float(value) * 1000, 3) for name, value in zip(("p50", "p95", "p99"), values, strict=True)
    }


def read(records: Path) -> list[Cell]:
    """Return the cells that were measured."""
    if not records.exists():
        return []
    return [Cell(**json.loads(line)) for line in records.read_text(encoding="utf-8").splitlines() if line]


def best(cells: Sequence[Cell]) -> list[Cell]:
    """Return for each run and number of clients the cell with the lowest p99, in the order of the first."""
    chosen: dict[tuple[str, int], Cell] = {}
    for cell in cells:
        former = chosen.setdefault((cell.run, cell.clients), cell)
        if cell.latency["p99"] < former.latency["p99"]:
            chosen[cell.run, cell.clients] = cell
    return sorted(chosen.values(), key=lambda cell: (cell.run, cell.clients))


def row(cell: Cell) -> list[str]:
    """Return the cell's row of the table."""
    times = [cell.latency["p50"], cell.latency["p95"], cell.latency["p99"]]
    times += [cell.model_time["p99"], cell.waiting["p99"], cell.rest["p50"], cell.rest["p99"]]
    name = f"{cell.model}, {cell.clients}"
    return [
        name,
        f"{cell.users_a_second:.0f}",
        *(f"{value:.1f}" for value in times),
        "-" if cell.cpu is None else f"{cell.cpu:.1f}",
        str(sum(cell.errors.values())),
        f"{cell.load:.1f}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cells that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders with ids.json")
    parser.add_argument("--clients", nargs="+", type=int, default=list(CLIENTS))
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a measurement")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of a call of the model")
    parser.add_argument(
        "--records", type=Path, help="a file, one measured cell a line; those are not repeated"
    )
    parser.add_argument(
        "--budget", type=float, default=float("inf"), help="begin no cell after so many seconds"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of serving.json")
    given = parser.parse_args(arguments)
    cells = [] if given.records is None else read(given.records)
    began = time.perf_counter()
    wanted = given.repeats * len(given.runs) * len(given.clients)
    todo = [(run, count) for _ in range(given.repeats) for run in given.runs for count in given.clients]
    for cell in cells:
        same = [one for one in todo if (one[0].name, one[1]) == (cell.run, cell.clients)]
        if same:
            todo.remove(same[0])
    for run, counts in groupby(todo, key=lambda one: one[0]):
        if time.perf_counter() - began + given.seconds > given.budget:
            break
        with service(run, given.threads) as started:
            for _, count in counts:
                if time.perf_counter() - began + given.seconds > given.budget:
                    break
                cell = measure(run, started, count, given.seconds, len(cells))
                cells.append(cell)
                if given.records is not None:
                    with given.records.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(cell)) + "\n")
    if missing := wanted - len(cells):
        say(f"{missing} cells are missing: call again")
    show(best(cells), given.out, given.threads)


def show(cells: Sequence[Cell], folder: Path, threads: int) -> None:
    """Print the table and write ``serving.json``."""
    details: Mapping[str, Any] = {"cells": [asdict(cell) for cell in cells], "targets": TARGETS}
    report(
        "serving",
        title="Latencies of refit serve over the loopback",
        command="python -m benchmarks.serving RUN ...",
        columns=COLUMNS,
        rows=[row(cell) for cell in cells],
        note=f"Targets: {TARGETS}. {os.cpu_count()} processors, which the clients use, too; {threads} "
        "thread a call. CPU ms: processor time of the service for a request. load: that of the machine "
        "before the measurement, the mean over a minute.",
        folder=folder,
        **details,
    )


if __name__ == "__main__":
    main()
