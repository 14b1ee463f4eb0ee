"""How the cost of training grows with users and with items: seconds, memory, and fitted exponents.

    python -m benchmarks.scaling

Synthetic sets of constant activity (40 draws a user): users grow with 10,000 items, items grow with 10,000
users. Each cell is a process of its own: CPU seconds of one thread (other processes do not change them) of

- *iteration*: one update of the default agent (128 users, T = 4, DiffRec with 200 hidden units, reward racs);
- *epoch*: ELBO training of all users, from ten batches of 400;
- *setup*: the environment and its neighbours by the approximate index, before the first iteration;
- *neighbours*: the exact search, up to 30,000 users;
- *evaluation*: full ranking of all users, from 2,048 of them;

and the peak memory of the process. The exponent b of seconds ~ n^b is fitted by least squares of the
logarithms to the sizes from 3,000 on (below, fixed costs prevail), with its 95 % interval. The last cell is a
short run on 10^6 users and 10^6 items (``million_cell``).

Letters: n users or items, B users in a batch, I items.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import stats

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.experiments.provenance import sources
from agents.experiments.records import Cell, read_cell
from agents.runs.profiling import measure
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer
from benchmarks.harness import RESULTS, finish_cells, report
from benchmarks.workloads import NUM_STEPS, large_dataset
from refit_env.backbones import backbone_for
from refit_env.evaluation.ranking import evaluate, evaluated_users
from refit_env.neighbors import nearest_users
from refit_env.policy import DiffusionPolicy

CELLS = RESULTS / "scaling.jsonl"
FIXED = 10_000
"""Items where users grow, users where items grow."""
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
"""Values of n."""
FITTED_FROM = 3_000
EXACT_TO = 30_000
"""Most users of which neighbours are searched exactly."""
HIDDEN, USERS, BATCHES, EVALUATED, REPEATS = (200,), 128, 10, 2_048, 4
TARGET, MILLION = 1.0, 10**6
MEASURED = ("iteration", "epoch", "setup", "neighbours", "evaluation", "memory")


def growth_cell(num_users: int, num_items: int) -> dict[str, Any]:
    """Measure all parts on one size."""
    data = large_dataset(num_users, num_items)
    out: dict[str, Any] = {}
    with measure() as usage:
        policy = DiffusionPolicy(backbone_for(data, "diffrec", {"hidden": HIDDEN}, seed=0), NUM_STEPS)
        trainer = Pretrainer(data, policy.backbone, PretrainConfig(), device="cpu")
        ids, batch = trainer.examples.ids, trainer.config.users_per_batch
        count = min(BATCHES, len(ids) // batch)
        trainer._update(ids[:batch])
        begin = time.process_time()
        for n in range(count):
            trainer._update(ids[n * batch : (n + 1) * batch])
        out["epoch"] = (time.process_time() - begin) / (count * batch) * len(ids)
        del trainer
        out |= _tuning(data, policy)
        users = evaluated_users(data, "test")
        score = policy.scorer(data)
        begin = time.process_time()
        evaluate(score, data, "test", users=users[:EVALUATED])
        out["evaluation"] = (time.process_time() - begin) / min(EVALUATED, len(users)) * len(users)
    out["memory"] = usage.peak_memory_mib
    if num_users <= EXACT_TO:
        begin = time.process_time()
        nearest_users(data.train.csr)
        out["neighbours"] = time.process_time() - begin
    return out


def _tuning(data: Any, policy: DiffusionPolicy) -> dict[str, float]:
    """Measure the setup of the agent, and its iterations."""
    goal = {"data": data, "reward": "racs", "reward_kwargs": {"neighbors_by": "index"}}
    begin = time.process_time()
    agent = Reinforce(
        policy, "ReFiT-Custom-v0", ReinforceConfig(users_per_batch=USERS), env_kwargs=goal, device="cpu"
    )
    everyone = torch.as_tensor(agent.env.problem.users)
    agent.update(everyone[:USERS])
    out = {"setup": time.process_time() - begin}
    seconds = []
    for _ in range(REPEATS):
        users = everyone[torch.randperm(everyone.numel())[:USERS]]
        begin = time.process_time()
        agent.update(users)
        seconds.append(time.process_time() - begin)
    return out | {"iteration": min(seconds)}


def million_cell(num_users: int, num_items: int) -> dict[str, Any]:
    """Pretrain, fine-tune and evaluate a few batches on 10^6 users and 10^6 items.

    A row of the catalogue has 4 MB, so that batches have 16 users in four chunks; the network has 16 hidden
    units, and the reward (ndcg) needs no neighbours.
    """
    begin = time.process_time()
    data = large_dataset(num_users, num_items, events=12)
    out: dict[str, Any] = {"interactions": len(data.train), "data": time.process_time() - begin}
    with measure() as usage:
        policy = DiffusionPolicy(backbone_for(data, "diffrec", {"hidden": (16,)}, seed=0), 2)
        trainer = Pretrainer(data, policy.backbone, PretrainConfig(users_per_batch=32), device="cpu")
        begin = time.process_time()
        trainer._update(trainer.examples.ids[:32])
        out["pretraining_batch"] = time.process_time() - begin
        del trainer
        begin = time.process_time()
        config = ReinforceConfig(users_per_batch=16, chunks=4)
        agent = Reinforce(
            policy, "ReFiT-Custom-v0", config, env_kwargs={"data": data, "reward": "ndcg"}, device="cpu"
        )
        out["setup"] = time.process_time() - begin
        everyone = torch.as_tensor(agent.env.problem.users)
        seconds = []
        for n in range(3):
            begin = time.process_time()
            agent.update(everyone[16 * n : 16 * (n + 1)])
            seconds.append(time.process_time() - begin)
        out["iteration"] = min(seconds)
        del agent
        begin = time.process_time()
        users = evaluated_users(data, "test")[:32]
        means = evaluate(policy.scorer(data), data, "test", users=users, batch=16).means()
        out["evaluation_32"], out["recall@20"] = time.process_time() - begin, means["recall@20"]
    return out | {"memory": usage.peak_memory_mib}


def plan() -> list[Cell]:
    """Return the cells: users grow, then items; the last one is the run on a million of both."""
    settings = {
        "hidden": list(HIDDEN),
        "users_per_batch": USERS,
        "num_steps": NUM_STEPS,
        "search": "approximate",
    }
    sizes = [(n, FIXED) for n in SIZES] + [(FIXED, n) for n in SIZES if n != FIXED]
    cells = [
        Cell(
            f"growth_{users}_{items}",
            growth_cell,
            (users, items),
            settings | {"users": users, "items": items},
        )
        for users, items in sizes
    ]
    return [*cells, Cell("million", million_cell, (MILLION, MILLION), {"users_per_batch": 16, "chunks": 4})]


def exponent(cost: Mapping[int, float]) -> tuple[float, float, float]:
    """Return the exponent b of cost ~ n^b with its 95 % interval, by least squares of the logarithms.

    Example:
        >>> [round(value, 6) for value in exponent({1: 3.0, 2: 6.0, 4: 12.0})]
        [1.0, 1.0, 1.0]
    """
    fit = stats.linregress(np.log(list(cost)), np.log(list(cost.values())))
    error = float(np.nan_to_num(fit.stderr))  # NaN where all costs are equal
    width = float(stats.t.ppf(0.975, len(cost) - 2)) * error
    return float(fit.slope), float(fit.slope) - width, float(fit.slope) + width


def tabulate(found: Mapping[str, Mapping[str, Any]]) -> tuple[list[list[str]], dict[str, Any]]:
    """Return the table's rows, and the exponents.

    Args:
        found: the results of the cells of ``plan``, by key.
    """
    rows: list[list[str]] = []
    by_axis: dict[str, dict[str, dict[int, float]]] = {"users": {}, "items": {}}
    for cell in plan():
        users, items = cell.arguments
        got = found[cell.key]
        if cell.work is million_cell:
            rows.append([f"{users:,} users, {items:,} items", *_million(got)])
            continue
        cells = [f"{got[name]:.3g}" if name in got else "" for name in MEASURED]
        rows.append([f"{users:,} users, {items:,} items", *cells])
        for axis, n, other in (("users", users, items), ("items", items, users)):
            if other == FIXED and n >= FITTED_FROM:
                for name in MEASURED:
                    if name in got:
                        by_axis[axis].setdefault(name, {})[n] = got[name]
    exponents = {
        f"{name} in {axis}": exponent(costs)
        for axis, part in by_axis.items()
        for name, costs in part.items()
        if len(costs) > 2
    }
    return rows, {"exponents": exponents}


def _million(got: Mapping[str, Any]) -> list[str]:
    """Return the cells of the row of a million users and items."""
    found = {
        "iteration": f"{got['iteration']:.3g} (16 users)",
        "epoch": f"{got['pretraining_batch']:.3g} (32 users)",
        "setup": f"{got['setup']:.3g}",
        "evaluation": f"{got['evaluation_32']:.3g} (32 users)",
        "memory": f"{got['memory']:.3g}",
    }
    return [found.get(name, "") for name in MEASURED]


def main() -> None:
    """Measure missing cells, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--redo", action="store_true", help="measure stale cells again")
    redo, cells = parser.parse_args().redo, plan()
    finish_cells(cells, CELLS, redo=redo)
    found = {cell.key: read_cell(CELLS, cell) or {} for cell in cells}
    rows, details = tabulate(found)
    fitted = "; ".join(
        f"{what} n^{b:.2f} ({low:.2f} to {high:.2f})" for what, (b, low, high) in details["exponents"].items()
    )
    report(
        "scaling",
        title="How costs grow with users and items",
        command="python -m benchmarks.scaling",
        columns=["data", *(f"{name}, {'MiB' if name == 'memory' else 's'}" for name in MEASURED)],
        rows=rows,
        note=f"CPU seconds of one thread. Exponents from {FITTED_FROM:,} on (target {TARGET}): {fitted}.",
        provenance=sources(found.values()),
        **details,
    )


if __name__ == "__main__":
    main()
