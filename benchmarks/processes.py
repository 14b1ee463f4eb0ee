"""What several processes gain: the time of an update in one process and in two, on ML-1M.

    python -m benchmarks.processes                      # pretraining and fine-tuning, one and two processes
    python -m benchmarks.processes --processes 1 2 4 --rounds 5

Efficiency is the time of an update in one process, divided by that in N processes and by N: 1 is perfect. The
time of an update is measured twice: on the clock, and as processor time. On a machine where other programs
compete for the processors the clock says little; the processor time of all processes over that of one is the
work that dividing adds (every process draws the random numbers of the whole batch, and exchanges gradients).
Processes have one thread each, and the numbers of processes are measured in turns. Finished cells are stored
and skipped, stale ones are named, and ``--redo`` measures them again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.experiments.provenance import sources
from agents.experiments.records import Cell, read_cell
from agents.training.pretrain_config import published_training
from agents.training.pretrainer import Pretrainer
from agents.training.world import world_of
from benchmarks.harness import RESULTS, finish_cells, report
from benchmarks.workloads import default_policy, load_or_generate, make_agent
from refit_env.backbones import backbone_for

KINDS = ("pretraining", "fine-tuning")
COLUMNS = ("update, processes", "ms", "CPU ms", "speed-up", "efficiency", "CPU over one process")


def update_of(kind: str, data_name: str) -> Callable[[], Any]:
    """Return a function that makes one update with the default settings, in this process's share."""
    data, _ = load_or_generate(data_name)
    if kind == "pretraining":
        config = published_training("diffrec", data.name)
        trainer = Pretrainer(data, backbone_for(data, "diffrec", seed=0), config, device="cpu")
        trainer.backbone.train()
        return lambda: trainer._update(trainer.examples.ids[: config.users_per_batch])
    agent = make_agent(data, default_policy(data))
    users = torch.as_tensor(agent.env.problem.users[: agent.config.users_per_batch])
    return lambda: agent.update(users)


def work(kind: str, data_name: str, updates: int) -> None:
    """Time updates in one of the processes; the first prints milliseconds of clock and processor."""
    torch.set_num_threads(1)
    world = world_of(torch.device("cpu"))
    update = update_of(kind, data_name)
    for _ in range(3):
        update()
    world.any(False)  # waits for all
    clock, processor = time.perf_counter(), time.process_time()
    for _ in range(updates):
        update()
    world.any(False)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    [used] = world.total([processor])
    if world.rank == 0:
        print(json.dumps({"clock": 1000 * clock / updates, "processor": 1000 * used / updates}), flush=True)


def update_cell(kind: str, count: int, data_name: str, updates: int) -> dict[str, Any]:
    """Measure the milliseconds of an update on the clock, and of the processor in all processes together.

    Raises:
        RuntimeError: with the end of what the processes wrote, if one of them failed.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command = [sys.executable, *launcher, "-m", "benchmarks.processes", "--work", kind]
    command += ["--data", data_name, "--updates", str(updates)]
    load = os.getloadavg()[0]
    made = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    lines = [line for line in made.stdout.splitlines() if line.startswith("{")]
    if made.returncode or not lines:
        raise RuntimeError(f"{kind} in {count} processes failed: {made.stderr.strip()[-400:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found | {"load": load}


def plan(data_name: str, counts: Sequence[int], rounds: int, updates: int) -> list[Cell]:
    """Return the cells: in each round each kind of update with each number of processes."""
    return [
        Cell(
            f"{data_name}_{kind}_{count}_round{number}",
            update_cell,
            (kind, count, data_name, updates),
            {"updates": updates, "threads": 1},
        )
        for number in range(1, rounds + 1)
        for kind in KINDS
        for count in counts
    ]


def row(kind: str, count: int, found: Mapping[int, Mapping[str, float]]) -> list[str]:
    """Return the row of a number of processes; ``found`` holds the medians by number of processes."""
    one, own = found[min(found)], found[count]
    gain = one["clock"] / own["clock"]
    return [
        f"{kind}, {count}",
        f"{own['clock']:.1f}",
        f"{own['processor']:.1f}",
        f"{gain:.2f}",
        f"{gain * min(found) / count:.2f}",
        f"{own['processor'] / one['processor']:.2f}",
    ]


def median(times: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the medians over the rounds.

    Example:
        >>> median([{"clock": 1.0}, {"clock": 3.0}, {"clock": 2.0}])
        {'clock': 2.0}
    """
    return {name: float(np.median([one[name] for one in times])) for name in times[0]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure missing cells, print the table, and write ``processes.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--data", default="ml-1m")
    parser.add_argument("--redo", action="store_true", help="measure stale cells again")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of processes.jsonl and processes.json"
    )
    parser.add_argument("--work", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.work:
        work(given.work, given.data, given.updates)
        return
    _, name = load_or_generate(given.data)
    cells, records = (
        plan(given.data, given.processes, given.rounds, given.updates),
        given.out / "processes.jsonl",
    )
    finish_cells(cells, records, redo=given.redo)
    read = [(cell, read_cell(records, cell) or {}) for cell in cells]
    names = ("clock", "processor", "load")
    times = {
        kind: {
            count: [
                {part: got[part] for part in names}
                for cell, got in read
                if cell.arguments[:2] == (kind, count)
            ]
            for count in given.processes
        }
        for kind in KINDS
    }
    found = {kind: {count: median(own) for count, own in counts.items()} for kind, counts in times.items()}
    load = max(got["load"] for _, got in read)
    report(
        "processes",
        title=f"An update in several processes ({name}, DiffRec)",
        command="python -m benchmarks.processes",
        columns=COLUMNS,
        rows=[row(kind, count, found[kind]) for kind in KINDS for count in given.processes],
        note=f"Medians of {given.rounds} rounds of {given.updates} updates, one thread a process, "
        f"{os.cpu_count()} processors. The load of the machine before a measurement was at most {load:.1f} "
        "(the mean over a minute): where it is above the number of processors, the clock measures how long "
        "processes wait for one. CPU over one process: the work that dividing adds; efficiency on processors "
        "that nothing else uses is at most its inverse.",
        folder=given.out,
        provenance=sources([got for _, got in read]),
        times={kind: {str(count): own for count, own in counts.items()} for kind, counts in times.items()},
    )


if __name__ == "__main__":
    main()
