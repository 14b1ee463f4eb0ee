"""The cost of fine-tuning: its peak memory compared with that of pretraining, and the time of an iteration.

    python -m benchmarks.fine_tuning_cost

Peak memory of a process that pretrains a recommender for an epoch, of one that fine-tunes it with batches of
the same size, and of those that do so with ``recompute`` or in chunks; on ReFiT-ML1M-v0. In the paper's
Table VII fine-tuning needs 5.5 to 7.5 % more of a machine's memory, and 1.2 to 5.9 % more of a GPU's.
``benchmarks.scaling`` measures how costs grow.

Each figure is measured in a separate process, one after the other; finished cells are stored and skipped,
stale ones are named, and ``--redo`` measures them again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.experiments.provenance import sources
from agents.experiments.records import Cell, read_cell
from agents.runs.profiling import measure
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import pretrain
from benchmarks.harness import RESULTS, finish_cells, report
from refit_env.backbones import backbone_for
from refit_env.data import load_dataset
from refit_env.policy import DiffusionPolicy

CELLS = RESULTS / "fine_tuning_cost.jsonl"
GOAL = {"reward": "racs", "relevance": "recent"}
MODELS = {"diffrec": "published", "cf-diff": "small"}
"""Backbone -> size of its configuration, for ML-1M."""
USERS = 128
"""Users in a batch of pretraining and of fine-tuning."""
PRETRAIN, KEEP, RECOMPUTE = "pretraining", "fine-tuning", "fine-tuning, recompute"
CHUNKED, CHUNKS = "fine-tuning, 16 chunks", 16
"""A batch in so many parts."""
NUM_STEPS = 5
REPEATS = 7
"""Number of iterations; the first is not timed."""
TARGET_MEMORY = 1.0122
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
                users_per_batch=USERS,
                iterations=REPEATS,
                eval_every=REPEATS,
                recompute=row == RECOMPUTE,
                chunks=CHUNKS if row == CHUNKED else 1,
            )
            goal = GOAL | {"backbone": backbone}
            policy = DiffusionPolicy(model, NUM_STEPS)
            agent = Reinforce(policy, "ReFiT-ML1M-v0", config, env_kwargs=goal, device="cpu")
            history = agent.learn().history
            seconds = [row["seconds/update"] for row in history[2:]]
    return {"mib": usage.peak_memory_mib, "seconds": seconds}


def plan() -> list[Cell]:
    """Return the cells, pretraining first."""
    kinds = [(backbone, row) for backbone in MODELS for row in (PRETRAIN, KEEP, RECOMPUTE, CHUNKED)]
    return [
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
            | {"iterations": REPEATS, "env_kwargs": GOAL}
            | ({"chunks": CHUNKS} if row == CHUNKED else {}),
            "ml-1m",
        )
        for backbone, row in kinds
    ]


def tabulate(found: Mapping[str, Mapping[str, Any]]) -> tuple[list[list[str]], dict[str, Any]]:
    """Return the table's rows, and the ratios.

    Args:
        found: the results of the cells of ``plan``, by key.
    """
    rows: list[list[str]] = []
    base: dict[str, float] = {}
    over: dict[str, float] = {}
    for cell in plan():
        got = found[cell.key]
        each = f"{np.median(got['seconds']):.2f}" if got["seconds"] else ""
        backbone, row = cell.arguments
        base.setdefault(backbone, got["mib"])  # pretraining is first
        over[f"{backbone}, {row}"] = got["mib"] / base[backbone]
        more = "" if row == PRETRAIN else f"{100 * (got['mib'] / base[backbone] - 1):+.1f}"
        rows.append([f"ML-1M, {backbone} ({MODELS[backbone]}), {row}", f"{got['mib']:.0f}", more, each])
    return rows, {"memory_over_pretraining": over}


def main() -> None:
    """Measure missing cells, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--redo", action="store_true", help="measure stale cells again")
    redo, cells = parser.parse_args().redo, plan()
    os.environ.update(GIVEN_BACK)  # read by the processes of the cells
    finish_cells(cells, CELLS, redo=redo)
    found = {cell.key: read_cell(CELLS, cell) or {} for cell in cells}
    rows, details = tabulate(found)
    report(
        "fine_tuning_cost",
        title="What fine-tuning costs",
        command="python -m benchmarks.fine_tuning_cost",
        columns=["what", "peak MiB", "over pretraining, %", "seconds an iteration"],
        rows=rows,
        note=(
            f"Batches of {USERS} users, T = {NUM_STEPS}, reward racs, one thread; a process each. Memory is "
            f"the process's, libraries and data included, freed memory returned (target: at most "
            f"{100 * (TARGET_MEMORY - 1):.2f} % over pretraining)."
        ),
        provenance=sources(found.values()),
        **details,
    )


if __name__ == "__main__":
    main()
