"""Cells of a short run on 10^6 users and 10^6 items, which ``benchmarks.scaling`` reports.

1. *data*: ten ranges of 10^5 users each are generated and written, one in memory at a time, as mapped Arrow
   files.
2. *fit*: a spectral denoiser (rank 32) of the catalogue, on the first two ranges.
3. *run*: REINFORCE on the mapped data: 100 ranges of 10^4 users take turns, batches of 16 users in four
   chunks, T = 2, reward ndcg, 4,096 sampled items; validation and test rank all items for some users, and the
   lists of 64 users are written.

What a cell leaves for the next one is in the user's cache folder.

Letters: n users, I items.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.experiments.records import Cell
from agents.runs.profiling import measure
from agents.serving.everyone import Columns, Lists, write_lists
from agents.serving.ranker import Ranker
from benchmarks.workloads import large_dataset
from refit_env.backbones import backbone_for
from refit_env.data import Dataset, load_mapped, write_mapped
from refit_env.evaluation.ranking import evaluate, evaluated_users
from refit_env.policy import DiffusionPolicy
from refit_env.utils.folders import cache_folder

SIZE, RANGES, EVENTS = 10**6, 10, 12
"""Users and items; ranges in which they are generated; draws of a user."""
RANK, FITTED, NUM_STEPS = 32, 2, 2
"""Rank of the denoiser; ranges that it is fitted to; T."""
PARTS, TESTED, LISTED = 100, 64, 64
"""Ranges of the training; users that the test evaluates; users whose lists are written."""
PLAIN = {"user_power": 0.0, "item_power": 0.0}
"""Rows and columns are not normalised: with 8 items a user, leading directions of the normalised rows could
be single users who share no item with others."""
CONFIG = ReinforceConfig(
    iterations=4,
    users_per_batch=16,
    chunks=4,
    sampled_items=4_096,
    user_parts=PARTS,
    part_iterations=2,
    validation_users=32,
    eval_every=4,
    exploration_std=0.001,
    learning_rate=1e-4,
)


def folder() -> Path:
    """Return the folder of what the cells leave."""
    return cache_folder() / "scaling"


def data_cell(size: int, ranges: int) -> dict[str, Any]:
    """Generate the data set range by range, and write it as mapped files."""
    place = folder() / "data"
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)

    def parts() -> Iterator[Dataset]:
        for n in range(ranges):
            yield large_dataset(size // ranges, size, events=EVENTS, seed=n, name="million")

    begin = time.process_time()
    with measure() as usage:
        write_mapped(parts(), place)
    written = sum(file.stat().st_size for file in place.iterdir())
    with measure() as loading:
        loaded = load_mapped(place)
    return {
        "seconds": time.process_time() - begin,
        "memory": usage.peak_memory_mib,
        "memory_loaded": loading.peak_memory_mib,
        "interactions": sum(len(loaded.split(name)) for name in ("train", "valid", "test")),
        "mib": written / 2**20,
    }


def fit_cell(rank: int) -> dict[str, Any]:
    """Fit the denoiser to some ranges of the users."""
    whole = load_mapped(folder() / "data")
    data = whole.part(0, whole.num_users * FITTED // RANGES)
    begin = time.process_time()
    with measure() as usage:
        backbone = backbone_for(data, "spectral", PLAIN | {"rank": rank}, seed=0)
        backbone.fit(data)  # type: ignore[operator]  # it is a closed form
        DiffusionPolicy(backbone, NUM_STEPS).save(folder() / "policy", data)
    return {
        "seconds": time.process_time() - begin,
        "memory": usage.peak_memory_mib,
        "weights": sum(weight.numel() for weight in backbone.parameters()),
    }


def timed(
    update: Callable[[Tensor], dict[str, float]], seconds: list[float]
) -> Callable[[Tensor], dict[str, float]]:
    """Return the update, which also appends its CPU seconds to a list."""

    def run(users: Tensor) -> dict[str, float]:
        begin = time.process_time()
        out = update(users)
        seconds.append(time.process_time() - begin)
        return out

    return run


def run_cell(size: int) -> dict[str, Any]:
    """Fine-tune, validate, test and make lists."""
    torch.set_num_threads(1)
    out: dict[str, Any] = {}
    with measure() as usage:
        whole = load_mapped(folder() / "data")
        policy = DiffusionPolicy.load(folder() / "policy")
        first = whole.part(0, size // PARTS)
        tested = evaluated_users(first, "test")[:TESTED]
        out["ndcg_before"] = evaluate(policy.scorer(first), first, users=tested, batch=16).means()["ndcg@20"]
        begin = time.process_time()
        goal = {"data": whole, "reward": "ndcg", "relevance": "recent"}
        agent = Reinforce(policy, "ReFiT-Custom-v0", CONFIG, env_kwargs=goal, device="cpu")
        out["setup"] = time.process_time() - begin
        seconds: list[float] = []
        agent.update = timed(agent.update, seconds)  # type: ignore[method-assign,assignment]
        begin = time.process_time()
        rows = agent.learn().history
        out["training"], out["iterations"] = time.process_time() - begin, seconds
        out["valid"] = [row["valid/ndcg@20"] for row in rows if "valid/ndcg@20" in row]
        out["reward"] = [row["reward/mean"] for row in rows if "reward/mean" in row]
        del agent
        begin = time.process_time()
        found = evaluate(policy.scorer(first), first, users=tested, batch=16).means()
        out |= {"test": time.process_time() - begin, "users_tested": int(np.size(tested))}
        out |= {"ndcg_after": found["ndcg@20"], "recall_after": found["recall@20"]}
        begin = time.process_time()
        few = whole.part(0, LISTED)
        ranker, columns = Ranker(policy, few), Columns(few.users_by_id, few.items_by_id)
        batches = Lists(20, batch=16).batches(ranker)
        out["rows_listed"] = write_lists(folder() / "lists.parquet", batches, columns, {}, total=LISTED)
        out["lists"] = time.process_time() - begin
    return out | {"memory": usage.peak_memory_mib}


def cells() -> list[Cell]:
    """Return the cells, each of which needs the one before."""
    size = {"users": SIZE, "items": SIZE}
    fit = PLAIN | {"rank": RANK, "num_steps": NUM_STEPS, "fitted": FITTED}
    data = size | {"ranges": RANGES, "events": EVENTS}
    return [
        Cell("million_data", data_cell, (SIZE, RANGES), data, leaves=folder() / "data" / "mapped.json"),
        Cell(
            "million_fit",
            fit_cell,
            (RANK,),
            data | fit,
            needs=("million_data",),
            leaves=folder() / "policy" / "policy.json",
        ),
        Cell(
            "million",
            run_cell,
            (SIZE,),
            data | fit | {"config": CONFIG, "tested": TESTED},
            needs=("million_data", "million_fit"),
        ),
    ]
