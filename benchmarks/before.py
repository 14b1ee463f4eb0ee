"""The default iteration in the code of an earlier commit and of this one: ``python -m benchmarks.before``.

The earlier commit is the last one before the work on its speed. Its code is taken from git into a temporary
folder, and each commit measures in a process of its own, with one thread: the iteration, its bare products
(``benchmarks.workloads.bare_products`` of that code), and where the time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from agents.algorithms.reinforce import Reinforce
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer
from benchmarks.counting import count, seconds_by_group
from benchmarks.harness import RESULTS, report
from benchmarks.workloads import bare_products, default_policy, load_or_generate

ROOT = Path(__file__).resolve().parents[1]
EARLIER = "cf52fe27"
"""The last commit before the work on an iteration's speed."""
UPDATES = 20
"""Updates of pretraining before the iteration, so that scores and lists are those of a recommender."""


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Return CPU seconds of the default iteration (reward ndcg) and of its products, and where they go.

    Args:
        name: a data set of ``benchmarks.workloads``.
        rounds: of both in turns; the best counts.
    """
    torch.set_num_threads(1)
    data, label = load_or_generate(name)
    policy = default_policy(data)
    trainer = Pretrainer(data, policy.backbone, PretrainConfig(), device="cpu")
    parts = trainer.examples.ids.split(trainer.config.users_per_batch)
    policy.backbone.train()
    for n in range(UPDATES):
        trainer._update(parts[n % len(parts)])
    policy.backbone.eval()
    relevance = "recent" if data.time_ordered else "holdout"  # named: the default has changed
    goal = {"data": data, "reward": "ndcg", "relevance": relevance}
    agent = Reinforce(policy, "ReFiT-Custom-v0", env_kwargs=goal, device="cpu")
    everyone = torch.as_tensor(agent.env.problem.users)
    order = torch.randperm(len(everyone), generator=torch.Generator().manual_seed(0))
    some = everyone[order[: agent.config.users_per_batch]]
    products, _ = bare_products(agent)
    best = {"iteration": float("inf"), "products": float("inf")}
    calls: dict[str, Callable[[], Any]] = {"iteration": lambda: agent.update(some), "products": products}
    for number in range(rounds + 1):
        for what, call in calls.items():
            begin = time.process_time()
            call()
            if number:  # the first is a warm-up
                best[what] = min(best[what], time.process_time() - begin)
    counted = count(calls["iteration"])
    return best | {
        "label": label,
        "profile": seconds_by_group(calls["iteration"]),
        "operations": counted.operations,
        "moved": counted.moved,
    }


def run_in(folder: Path, name: str, rounds: int) -> dict[str, Any]:
    """Return what ``measure`` returns with the code in a folder, in a process of its own."""
    code = (
        f"import json; from benchmarks.before import measure; print(json.dumps(measure({name!r}, {rounds})))"
    )
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{folder}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def code_of(commit: str, folder: Path) -> None:
    """Write the code of a commit into a folder, with this module and the counting of today."""
    archive = folder / "code.tar"
    paths = ["agents", "benchmarks", "refit_env"]
    subprocess.run(["git", "archive", "-o", str(archive), commit, *paths], cwd=ROOT, check=True)
    shutil.unpack_archive(archive, folder, filter="data")
    for module in ("before.py", "counting.py"):
        shutil.copy(ROOT / "benchmarks" / module, folder / "benchmarks" / module)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both commits in turns, print the table, and write ``before.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["ml-1m", "yelp2018", "gowalla"])
    parser.add_argument("--commit", default=EARLIER, help="the earlier commit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of before.json")
    given = parser.parse_args(arguments)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        code_of(given.commit, Path(place))
        for name in given.data:
            found[name] = {
                when: run_in(folder, name, given.rounds)
                for when, folder in (("before", Path(place)), ("today", ROOT))
            }
    rows = [
        [
            found[name]["today"]["label"],
            when,
            f"{1000 * one['iteration']:.1f}",
            f"{one['iteration'] / one['products']:.2f}",
            f"{one['operations'] / 1e9:.1f}",
            f"{one['moved'] / 1e9:.2f}",
        ]
        for name in given.data
        for when, one in found[name].items()
    ]
    report(
        "before",
        title="The default iteration (reward ndcg) before the work on its speed and today",
        command="python -m benchmarks.before",
        columns=("data", "code", "ms", "over bare products", "GFLOP of products", "GB moved"),
        rows=rows,
        note=f"Before: commit {given.commit}. CPU ms of one thread, best of {given.rounds}.",
        folder=given.out,
        commit=given.commit,
        measured=found,
    )


if __name__ == "__main__":
    main()
