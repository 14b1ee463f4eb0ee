"""How the cost of training grows with users and with items: seconds, memory, and fitted exponents.

    python -m benchmarks.scaling

Synthetic sets of constant activity (40 draws a user): users grow with 10,000 items, items grow with 10,000
users. Each cell is a process of its own: CPU seconds of one thread (other processes do not change them) of

- *iteration*: one update of the default agent (128 users, T = 4, DiffRec with 200 hidden units, reward racs);
- *epoch*: ELBO training of all users, from ten batches of 400;
- *setup*: the environment and its neighbours by the approximate index, before the first iteration;
- *neighbours*: the exact search, up to 30,000 users;
- *evaluation*: full ranking of all users;

and the peak memory of the process. The exponent b of seconds ~ n^b is fitted by least squares of the
logarithms to the sizes from 3,000 on (below, fixed costs prevail), with its 95 % interval. The last cells are
a short run on 10^6 users and 10^6 items (``benchmarks.million``). ``--only million`` measures that alone,
``--finished`` nothing: the table has the cells that are finished. Finished cells are not measured again; an
empty folder as ``--out`` measures all of them.

Letters: n users or items, B users in a batch, I items.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
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
from benchmarks import million
from benchmarks.harness import RESULTS, finish_cells, report
from benchmarks.workloads import NUM_STEPS, large_dataset
from refit_env.backbones import backbone_for
from refit_env.evaluation.ranking import evaluate
from refit_env.neighbors import nearest_users
from refit_env.policy import DiffusionPolicy
from refit_env.utils.memory import arrays_kept

FIXED = 10_000
"""Items where users grow, users where items grow."""
SIZES = (1_000, 3_000, 10_000, 17_000, 30_000, 55_000, 100_000)
"""Values of n."""
FITTED_FROM = 3_000
EXACT_TO = 30_000
"""Most users of which neighbours are searched exactly."""
HIDDEN, USERS, BATCHES, REPEATS = (200,), 128, 10, 4
TARGET = 1.0
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
        with arrays_kept(trainer.largest_array):  # as ``learn`` does
            trainer._update(ids[:batch])
            begin = time.process_time()
            for n in range(count):
                trainer._update(ids[n * batch : (n + 1) * batch])
        out["epoch"] = (time.process_time() - begin) / (count * batch) * len(ids)
        del trainer
        out |= _tuning(data, policy)
        score = policy.scorer(data)
        begin = time.process_time()
        evaluate(score, data, "test")
        out["evaluation"] = time.process_time() - begin
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
    seconds = []
    with arrays_kept(agent.largest_array):  # as ``learn`` does
        agent.update(everyone[:USERS])
        out = {"setup": time.process_time() - begin}
        for _ in range(REPEATS):
            users = everyone[torch.randperm(everyone.numel())[:USERS]]
            begin = time.process_time()
            agent.update(users)
            seconds.append(time.process_time() - begin)
    return out | {"iteration": min(seconds)}


def plan() -> list[Cell]:
    """Return the cells: users grow, then items."""
    settings = {
        "hidden": list(HIDDEN),
        "users_per_batch": USERS,
        "num_steps": NUM_STEPS,
        "search": "approximate",
    }
    sizes = [(n, FIXED) for n in SIZES] + [(FIXED, n) for n in SIZES if n != FIXED]
    return [
        Cell(
            f"growth_{users}_{items}",
            growth_cell,
            (users, items),
            settings | {"users": users, "items": items},
        )
        for users, items in sizes
    ]


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
        found: the results of the cells of ``plan``, by key; those that are not finished are left out.
    """
    rows: list[list[str]] = []
    by_axis: dict[str, dict[str, dict[int, float]]] = {"users": {}, "items": {}}
    for cell in plan():
        users, items = cell.arguments
        got = found.get(cell.key)
        if not got:
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


def million_rows(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return the table's rows of the run on a million users and items; none where it is not finished."""
    if not all(found.get(key) for key in ("million_data", "million_fit", "million")):
        return []
    data, fit, run = (found[key] for key in ("million_data", "million_fit", "million"))
    users = f"{million.SIZE:,} users, {million.SIZE:,} items"
    size = million.CONFIG.users_per_batch
    names = (
        f"data, {data['interactions']:,} interactions, {data['mib']:.0f} MiB",
        f"spectral fit, {fit['weights']:,} weights",
        f"REINFORCE, batches of {size} users; test of {run['users_tested']} users",
    )
    costs: tuple[dict[str, float], ...] = (
        {"setup": data["seconds"], "memory": data["memory"]},
        {"setup": fit["seconds"], "memory": fit["memory"]},
        {
            "iteration": min(run["iterations"]),
            "setup": run["setup"],
            "evaluation": run["test"],
            "memory": run["memory"],
        },
    )
    return [
        [f"{users}: {name}", *(f"{cost[part]:.3g}" if part in cost else "" for part in MEASURED)]
        for name, cost in zip(names, costs, strict=True)
    ]


def main() -> None:
    """Measure missing cells, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--redo", action="store_true", help="measure stale cells again")
    parser.add_argument("--only", choices=("users", "items", "million"), help="measure one part")
    parser.add_argument("--finished", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of scaling.jsonl and scaling.json")
    options = parser.parse_args()
    parts = {
        "users": [cell for cell in plan() if cell.arguments[1] == FIXED],
        "items": [cell for cell in plan() if cell.arguments[0] == FIXED],
        "million": million.cells(),
    }
    cells, records = [*plan(), *parts["million"]], options.out / "scaling.jsonl"
    if not options.finished:
        finish_cells(parts[options.only] if options.only else cells, records, redo=options.redo)
    read = {cell.key: read_cell(records, cell) for cell in cells}
    found = {key: got for key, got in read.items() if got}
    missing = [key for key in read if key not in found]
    rows, details = tabulate(found)
    rows += million_rows(found)
    fitted = "; ".join(
        f"{what} n^{b:.2f} ({low:.2f} to {high:.2f})" for what, (b, low, high) in details["exponents"].items()
    )
    report(
        "scaling",
        title="How costs grow with users and items",
        command="python -m benchmarks.scaling",
        columns=["data", *(f"{name}, {'MiB' if name == 'memory' else 's'}" for name in MEASURED)],
        rows=rows,
        note=f"CPU seconds of one thread. Exponents from {FITTED_FROM:,} on (target {TARGET}): {fitted}."
        + (f" Not measured yet: {', '.join(missing)}." if missing else ""),
        folder=options.out,
        provenance=sources(found.values()),
        **details,
    )


if __name__ == "__main__":
    main()
