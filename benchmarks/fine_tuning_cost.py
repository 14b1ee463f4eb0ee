"""The cost of fine-tuning: memory compared with pretraining, and time by the size of the data.

    python -m benchmarks.fine_tuning_cost

- *Memory*: peak memory of a process that pretrains a recommender for an epoch, of one that fine-tunes it with
  batches of the same size, and of one that does so with ``recompute``; on ReFiT-ML1M-v0. In the paper's
  Table VII fine-tuning needs 5.5 to 7.5 % more.
- *Growth*: seconds per iteration of 128 users, and of the setup before the first one (neighbours,
  environment), on synthetic sets of n users and n items. The paper claims O(max(users, items)) (Fig. 10).

Each figure is measured in a separate process, one after the other; finished cells are stored and skipped,
stale ones are named, and ``--redo`` measures them again.

Letters: n users and items.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.experiments.cells import run_cells
from agents.experiments.provenance import sources
from agents.experiments.records import Cell, CellError, read_cell
from agents.runs.profiling import measure
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import pretrain
from benchmarks.harness import RESULTS, report
from refit_env.backbones import backbone_for
from refit_env.data import load_dataset
from refit_env.data.synthetic import synthesize
from refit_env.policy import DiffusionPolicy

CELLS = RESULTS / "fine_tuning_cost.jsonl"
GOAL = {"reward": "racs", "relevance": "recent"}
MODELS = {"diffrec": "published", "cf-diff": "small"}
"""Backbone -> size of its configuration, for ML-1M."""
USERS = 128
"""Users in a batch of pretraining and of fine-tuning."""
PRETRAIN, KEEP, RECOMPUTE = "pretraining", "fine-tuning", "fine-tuning, recompute"
SIZES = (2_000, 4_000, 8_000, 16_000)
"""Values of n."""
NUM_STEPS = 5
REPEATS = 7
"""Number of iterations; the first is not timed."""
TARGET_MEMORY, TARGET_SLOPE = 1.08, 1.1
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "262144"}
"""Makes glibc return freed memory at once; otherwise the peak varies by a tenth between runs."""


def memory_cell(backbone: str, row: str) -> dict[str, Any]:
    """Measure the peak memory of one kind of training on ML-1M, in MiB."""
    data = load_dataset("ml-1m")
    model = backbone_for(data, backbone, size=MODELS[backbone], seed=0)
    seconds: list[float] = []
    with measure() as usage:
        if row == PRETRAIN:
            pretrain(data, model, PretrainConfig(users_per_batch=USERS, epochs=1), device="cpu")
        else:
            config = ReinforceConfig(
                users_per_batch=USERS, iterations=REPEATS, eval_every=REPEATS, recompute=row == RECOMPUTE
            )
            goal = GOAL | {"backbone": backbone}
            policy = DiffusionPolicy(model, NUM_STEPS)
            agent = Reinforce(policy, "ReFiT-ML1M-v0", config, env_kwargs=goal, device="cpu")
            history = agent.learn().history
            seconds = [row["seconds/update"] for row in history[2:]]
    return {"mib": usage.peak_memory_mib, "seconds": seconds}


def growth_cell(size: int) -> dict[str, Any]:
    """Measure the seconds on n users and n items."""
    data = synthesize(num_users=size, num_items=size)
    model = backbone_for(data, "diffrec", {"hidden": (600, 200, 600)}, seed=0)
    config = ReinforceConfig(users_per_batch=USERS, iterations=REPEATS, eval_every=REPEATS + 1)
    begin = time.perf_counter()
    agent = Reinforce(
        DiffusionPolicy(model, NUM_STEPS),
        "ReFiT-Custom-v0",
        config,
        env_kwargs=GOAL | {"data": data},
        device="cpu",
    )
    everyone = torch.as_tensor(agent.env.problem.users)
    agent.update(everyone[:USERS])
    made = time.perf_counter() - begin
    seconds = []
    for _ in range(REPEATS - 1):
        users = everyone[torch.randperm(everyone.numel())[:USERS]]
        begin = time.perf_counter()
        agent.update(users)
        seconds.append(time.perf_counter() - begin)
    return {"once": made, "seconds": seconds}


def plan() -> list[Cell]:
    """Return the cells: first memory, then growth."""
    kinds = [(backbone, row) for backbone in MODELS for row in (PRETRAIN, KEEP, RECOMPUTE)]
    cells = [
        Cell(
            f"memory_{backbone}_{row.replace(', ', '-').replace(' ', '-')}",
            memory_cell,
            (backbone, row),
            {
                "backbone": backbone,
                "size": MODELS[backbone],
                "row": row,
                "users": USERS,
                "num_steps": NUM_STEPS,
            }
            | {"iterations": REPEATS, "env_kwargs": GOAL},
            "ml-1m",
        )
        for backbone, row in kinds
    ]
    shared = {"users": USERS, "num_steps": NUM_STEPS, "iterations": REPEATS, "env_kwargs": GOAL}
    return cells + [Cell(f"growth_{n}", growth_cell, (n,), shared | {"size": n}) for n in SIZES]


def slope(seconds: Mapping[int, float]) -> float:
    """Return the exponent b of seconds ~ n^b, by least squares of the logarithms.

    Example:
        >>> round(slope({1: 3.0, 2: 6.0, 4: 12.0}), 6)
        1.0
    """
    return float(np.polyfit(np.log(list(seconds)), np.log(list(seconds.values())), 1)[0])


def tabulate(found: Mapping[str, Mapping[str, Any]]) -> tuple[list[list[str]], dict[str, Any]]:
    """Return the table's rows, and the ratios and exponents.

    Args:
        found: the results of the cells of ``plan``, by key.
    """
    rows: list[list[str]] = []
    base: dict[str, float] = {}
    over: dict[str, float] = {}
    grown: dict[int, Mapping[str, Any]] = {}
    for cell in plan():
        got = found[cell.key]
        each = f"{np.median(got['seconds']):.2f}" if got["seconds"] else ""
        if cell.work is memory_cell:
            backbone, row = cell.arguments
            base.setdefault(backbone, got["mib"])  # pretraining is first
            over[f"{backbone}, {row}"] = got["mib"] / base[backbone]
            more = "" if row == PRETRAIN else f"{100 * (got['mib'] / base[backbone] - 1):+.1f}"
            name = f"ML-1M, {backbone} ({MODELS[backbone]}), {row}"
            rows.append([name, f"{got['mib']:.0f}", more, each, ""])
        else:
            (size,) = cell.arguments
            grown[size] = got
            rows.append([f"{size:,} users, {size:,} items, diffrec", "", "", each, f"{got['once']:.1f}"])
    slopes = {
        "iteration": slope({n: float(np.median(got["seconds"])) for n, got in grown.items()}),
        "once": slope({n: got["once"] for n, got in grown.items()}),
    }
    return rows, {"memory_over_pretraining": over, "slopes": slopes}


def main() -> None:
    """Measure missing cells, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--redo", action="store_true", help="measure stale cells again")
    redo, cells = parser.parse_args().redo, plan()
    try:
        os.environ.update(GIVEN_BACK)  # read by the processes of the cells
        failed = run_cells([cell for cell in cells if cell.data], CELLS, workers=1, redo=redo)
        for name in GIVEN_BACK:
            del os.environ[name]
        failed |= run_cells([cell for cell in cells if not cell.data], CELLS, workers=1, redo=redo)
    except CellError as error:
        raise SystemExit(str(error)) from None
    if failed:
        raise SystemExit("\n".join(f"{key}: {error}" for key, error in failed.items()))
    found = {cell.key: read_cell(CELLS, cell) or {} for cell in cells}
    rows, details = tabulate(found)
    slopes = details["slopes"]
    report(
        "fine_tuning_cost",
        title="What fine-tuning costs",
        command="python -m benchmarks.fine_tuning_cost",
        columns=["what", "peak MiB", "over pretraining, %", "seconds an iteration", "seconds once"],
        rows=rows,
        note=(
            f"Batches of {USERS} users, T = {NUM_STEPS}, reward racs, one thread; a process each. Memory is "
            f"the process's, libraries and data included, freed memory returned (target of recompute: at "
            f"most {100 * (TARGET_MEMORY - 1):.0f} % over pretraining). Seconds grow as "
            f"n^{slopes['iteration']:.2f} an iteration and n^{slopes['once']:.2f} once (target at most "
            f"n^{TARGET_SLOPE})."
        ),
        provenance=sources(found.values()),
        **details,
    )


if __name__ == "__main__":
    main()
