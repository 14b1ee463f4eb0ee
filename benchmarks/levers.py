"""What settings for large data sets do to the time and the quality of fine-tuning on ML-1M.

    python -m benchmarks.levers
    python -m benchmarks.levers --finished      # the table of the cells that are finished

One pretrained DiffRec; each row is the default agent with one setting changed, two seeds. CPU seconds of one
thread, of the median iteration; NDCG@20 on test of the last weights (no selection), of all users, less that
of the unchanged agent of the same seed.

Letters: n iterations.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.experiments.provenance import sources
from agents.experiments.records import Cell, read_cell
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import pretrain
from benchmarks.harness import RESULTS, finish_cells, report
from benchmarks.workloads import NUM_STEPS, default_policy
from refit_env.data import load_dataset
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy
from refit_env.utils.folders import cache_folder

CELLS = RESULTS / "levers.jsonl"
DATA, EPOCHS, ITERATIONS, SEEDS = "ml-1m", 20, 50, 2
CONFIG = ReinforceConfig(iterations=ITERATIONS, eval_every=ITERATIONS, validation_users=64)
LISTS = {"variant": "neighbor_lists"}
LEVERS: dict[str, dict[str, Any]] = {
    "unchanged": {},
    "draw_users=activity": {"config": {"draw_users": "activity"}},
    "draw_users=bands": {"config": {"draw_users": "bands"}},
    "half the steps": {"chain": {"num_steps": NUM_STEPS // 2}},
    "half the steps, eta=0 (straight line)": {"chain": {"num_steps": NUM_STEPS // 2, "eta": 0.0}},
    "sampled_items=256": {"config": {"sampled_items": 256}},
    "precision=bf16": {"config": {"precision": "bf16"}},
    "racs neighbor_lists, all lists every 10": {"reward": LISTS, "config": {"eval_every": 10}},
    "racs neighbor_lists, lists_ttl=10": {"reward": LISTS, "config": {"lists_ttl": 10}},
}
"""By name, what is changed: settings of the agent, of the policy's chain, of the reward."""


def start_cell() -> dict[str, Any]:
    """Pretrain the model that all rows begin with."""
    data = load_dataset(DATA)
    backbone = default_policy(data).backbone
    result = pretrain(data, backbone, PretrainConfig(epochs=EPOCHS, eval_every=EPOCHS), device="cpu")
    DiffusionPolicy(result.backbone, NUM_STEPS).save(folder(), data)
    return {"ndcg@20": quality(DiffusionPolicy.load(folder()))}


def folder() -> Any:
    """Return the folder of the pretrained model."""
    return cache_folder() / "levers"


def quality(policy: DiffusionPolicy) -> float:
    """Return NDCG@20 of all users on test."""
    data = load_dataset(DATA)
    return evaluate(policy.scorer(data), data).means()["ndcg@20"]


def lever_cell(name: str, seed: int) -> dict[str, Any]:
    """Fine-tune with one setting changed."""
    torch.set_num_threads(1)
    lever = LEVERS[name]
    policy = DiffusionPolicy.load(folder()).respaced(**lever.get("chain", {}))
    config = replace(CONFIG, **lever.get("config", {}))
    goal = {"data": DATA, "reward": "racs", "reward_kwargs": lever.get("reward")}
    agent = Reinforce(policy, "ReFiT-Custom-v0", config, env_kwargs=goal, seed=seed, device="cpu")
    ends, last = [time.process_time()], {}

    def note(_: Any, __: Any) -> None:
        ends.append(time.process_time())
        if agent.iteration == ITERATIONS:  # the last weights; afterwards validation has chosen
            last["ndcg@20"] = quality(agent.policy)

    agent.learn(callback=note)
    rows = agent.history
    hits = [row["lists/cache_hits"] for row in rows if "lists/cache_hits" in row]
    return {
        "iteration": float(np.median(np.diff(ends))),
        "total": ends[-1] - ends[0],
        **last,
        "reward": float(np.mean([row["reward/mean"] for row in rows[-10:] if "reward/mean" in row])),
    } | ({"cache_hits": float(np.mean(hits))} if hits else {})


def plan() -> list[Cell]:
    """Return the cells: the start, then each lever with each seed."""
    settings = {"epochs": EPOCHS, "num_steps": NUM_STEPS}
    start = Cell("start", start_cell, (), settings, DATA, leaves=folder() / "policy.json")
    return [
        start,
        *(
            Cell(
                f"{name}, seed {seed}",
                lever_cell,
                (name, seed),
                settings | {"config": CONFIG, "lever": LEVERS[name]},
                DATA,
                needs=("start",),
            )
            for seed in range(SEEDS)
            for name in LEVERS
        ),
    ]


def tabulate(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return the table's rows.

    Args:
        found: the results of the cells of ``plan``, by key; a seed counts where the unchanged agent and the
            setting are finished.
    """
    rows = []
    for name in LEVERS:
        pairs = [[found.get(f"{kind}, seed {seed}") for kind in (name, "unchanged")] for seed in range(SEEDS)]
        both = [(own, other) for own, other in pairs if own and other]
        if not both:
            continue
        got, base = zip(*both, strict=True)
        iteration, total = (
            float(np.mean([g[what] / b[what] for g, b in zip(got, base, strict=True)]))
            for what in ("iteration", "total")
        )
        change = [g["ndcg@20"] - b["ndcg@20"] for g, b in zip(got, base, strict=True)]
        hits = [g["cache_hits"] for g in got if "cache_hits" in g]
        rows.append(
            [
                name,
                f"{iteration:.2f}",
                f"{total:.2f}",
                f"{np.mean([g['ndcg@20'] for g in got]):.4f}",
                " ".join(f"{value:+.4f}" for value in change),
                f"{100 * float(np.mean(hits)):.0f}" if hits else "",
            ]
        )
    return rows


def main() -> None:
    """Measure missing cells, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--redo", action="store_true", help="measure stale cells again")
    parser.add_argument("--finished", action="store_true", help="measure nothing")
    options, cells = parser.parse_args(), plan()
    if not options.finished:
        finish_cells(cells, CELLS, redo=options.redo)
    read = {cell.key: read_cell(CELLS, cell) for cell in cells}
    found = {key: got for key, got in read.items() if got}
    missing = [key for key in read if key not in found]
    report(
        "levers",
        title="Settings for large data sets, measured on ML-1M",
        command="python -m benchmarks.levers",
        columns=[
            "setting",
            "iteration, x",
            "training, x",
            "NDCG@20 (test)",
            "less unchanged, by seed",
            "cache hits, %",
        ],
        rows=tabulate(found),
        note=(
            f"ReFiT-ML1M-v0, DiffRec after {EPOCHS} epochs (NDCG@20 {found['start']['ndcg@20']:.4f}), "
            f"{ITERATIONS} iterations of the default agent, reward racs, at most {SEEDS} seeds, the last "
            "weights. x: CPU seconds over those of the unchanged agent; training: with validations and with "
            "the lists of others that the reward reads."
            + (f" Not measured yet: {'; '.join(missing)}." if missing else "")
        ),
        provenance=sources(found.values()),
    )


if __name__ == "__main__":
    main()
