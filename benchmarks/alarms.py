"""The alarms of fine-tuning runs, measured: how early they fire, and how often they are wrong.

    python -m benchmarks.alarms [--envs ReFiT-Synthetic-v0 ...] [--seeds 2]

REINFORCE maximises proxy rewards of several kinds with the default step size and with a fifth of it, from a
trained and from a closed-form start. The gold is test NDCG@20, which no rule reads, at every validation. A
run *over-optimises* if its gold falls by more than 2 % of its best value below that value, and stays there
until the end. An alarm of such a run is a hit; its lead is the number of validations from the alarm to the
one where gold first is that far below (positive: before). An alarm of another run is false.

Finished cells are stored in ``benchmarks/results/alarms.jsonl`` and are not run again.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.experiments.provenance import sources
from agents.experiments.records import Cell, read_cell
from agents.runs.alarms import KINDS, alarms
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import pretrain
from benchmarks.harness import RESULTS, finish_here, report
from refit_env.data import load_dataset
from refit_env.policy import DiffusionPolicy
from refit_env.pretrained import load_policy
from refit_env.registration import entry

CELLS = RESULTS / "alarms.jsonl"
ENVS = ("ReFiT-Synthetic-v0",)
STARTS = ("linear", "diffrec")
PROXIES: dict[str, dict[str, Any]] = {
    "racs, recent": {"reward": "racs", "relevance": "recent"},
    "racs, train": {"reward": "racs", "relevance": "train"},
    "ndcg, recent": {"reward": "ndcg", "relevance": "recent"},
    "ndcg, hold-out": {"reward": "ndcg", "relevance": "holdout"},
    "ndcg, train": {"reward": "ndcg", "relevance": "train"},
    "ease": {"reward": "ease", "relevance": "none"},
    "popular items": {"reward": {"novelty": -1.0}, "relevance": "none"},
    "coverage": {"reward": {"ndcg": 1.0, "coverage": 0.5}, "relevance": "holdout"},
}
"""Proxy -> keywords of the environment."""
RATES = (5e-5, 1e-5)
"""Step sizes: the default, and a fifth of it."""
ITERATIONS, EVERY, STEPS = 48, 4, 3
"""Iterations of a run, of which every fourth is validated; T."""
FALL = 0.02
"""Fall of gold below its best that counts, as a share."""
LOGGED = ("iteration", "monitor/", "policy/", "valid/", "lists/", "reward/")
"""Beginnings of the names of the scalars that a record keeps."""


def measured(env_id: str, start: str, proxy: str, rate: float, seed: int) -> dict[str, Any]:
    """Run REINFORCE on a proxy; returns its log at every validation and the gold there."""
    policy = copy.deepcopy(start_of(env_id, start, seed))
    settings = ReinforceConfig(iterations=ITERATIONS, eval_every=EVERY, learning_rate=rate)
    goal = PROXIES[proxy] | {"backbone": policy.backbone.name}
    agent = Reinforce(policy, env_id, settings, env_kwargs=goal, seed=seed, device="cpu")
    gold = [agent.evaluate("test").means()["ndcg@20"]]

    def measure(agent: Any, scalars: Mapping[str, float]) -> None:
        if "monitor/reward" in scalars:
            gold.append(agent.evaluate("test").means()["ndcg@20"])

    result = agent.learn(callback=measure)
    if result.interrupted:
        raise KeyboardInterrupt  # half a run is no result
    rows = [row for row in result.history if "monitor/reward" in row]
    log = [{name: round(row[name], 6) for name in row if name.startswith(LOGGED)} for row in rows]
    return {"log": log, "gold": [round(value, 6) for value in gold]}


@cache
def start_of(env_id: str, start: str, seed: int) -> DiffusionPolicy:
    """Return the policy that runs begin with: a trained one, or the closed form."""
    if start == "linear":
        return load_policy(env_id, num_steps=STEPS)
    dataset, config = load_dataset(entry(env_id).dataset or ""), PretrainConfig(epochs=200, patience=20)
    return DiffusionPolicy(pretrain(dataset, start, config, seed=seed, device="cpu").backbone, STEPS)


def plan(envs: Sequence[str], seeds: int) -> list[Cell]:
    """Return the cells, one a run."""
    return [
        Cell(
            f"{env}_{start}_{proxy}_{rate:g}_{seed}".replace(", ", "-").replace(" ", "-"),
            measured,
            (env, start, proxy, rate, seed),
            {"env": env, "start": start, "proxy": proxy, "rate": rate, "seed": seed, "goal": PROXIES[proxy]}
            | {"iterations": ITERATIONS, "every": EVERY, "steps": STEPS},
            entry(env).dataset or "",
        )
        for seed in range(seeds)
        for env in envs
        for start in STARTS
        for rate in RATES
        for proxy in PROXIES
    ]


def fallen_at(gold: Sequence[float], fall: float = FALL) -> int | None:
    """Return the validation from which on gold stays below its best by more than a share; None if never.

    Example:
        >>> fallen_at([0.2, 0.3, 0.31, 0.29, 0.25]), fallen_at([0.2, 0.3, 0.2, 0.31]), fallen_at([0.3, 0.1])
        (3, None, 1)
    """
    values = np.asarray(gold)
    best = int(values.argmax())
    below = values < (1 - fall) * values[best]
    if not below[-1]:
        return None
    last_above = int(np.flatnonzero(~below)[-1])
    return last_above + 1


def score(runs: Sequence[Mapping[str, Any]], kind: str | None) -> dict[str, Any]:
    """Score one kind of alarm over runs; None scores the first alarm of any kind.

    Returns:
        Numbers of runs and of those that over-optimise, hits, false alarms, and the leads of the hits.
    """
    out: dict[str, Any] = {"runs": len(runs), "over": 0, "hits": 0, "false": 0, "leads": []}
    for run in runs:
        places = {row["iteration"]: at for at, row in enumerate(run["log"])}
        fired = [
            places[alarm.iteration] for alarm in alarms(run["log"]) if kind is None or alarm.kind == kind
        ]
        fell = fallen_at(run["gold"])
        out["over"] += fell is not None
        if fired and fell is not None:
            out["hits"] += 1
            out["leads"].append(fell - min(fired))
        elif fired:
            out["false"] += 1
    return out


def main() -> None:
    """Run what is missing, then print and store the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--envs", nargs="+", default=list(ENVS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--finished", action="store_true", help="run nothing; score what is there")
    chosen = parser.parse_args()
    cells = plan(chosen.envs, chosen.seeds)
    if not chosen.finished:
        finish_here(cells, CELLS)
    found = [read_cell(CELLS, one, stale=chosen.finished) for one in cells]
    records = [record for record in found if record is not None]
    rows, details = [], {}
    for kind in (*KINDS, None):
        name, got = kind or "any of them", score(records, kind)
        details[name] = got
        wrong, fine = got["false"], got["runs"] - got["over"]
        leads = np.array(got["leads"])
        share = f"{int((leads > 0).sum())}" if leads.size else "-"
        middle = f"{EVERY * np.median(leads):+.0f}" if leads.size else "-"
        rows.append([name, f"{got['hits']} of {got['over']}", f"{wrong} of {fine}", share, middle])
    report(
        "alarms",
        title=f"Alarms over {len(records)} runs",
        command=f"python -m benchmarks.alarms --envs {' '.join(chosen.envs)} --seeds {chosen.seeds}",
        columns=["alarm", "hits", "false alarms", "before the fall", "median lead, iterations"],
        rows=rows,
        note=(
            f"{len(records)} of {len(cells)} planned runs, one REINFORCE each: {len(PROXIES)} proxies, "
            f"starts {' and '.join(STARTS)}, step sizes {' and '.join(f'{rate:g}' for rate in RATES)}. "
            "Hits: of the runs whose test NDCG@20 fell by more than 2 % below its best and stayed there. "
            "False alarms: of the other runs. Lead: iterations from the alarm to that fall, positive where "
            f"the alarm came first; validation every {EVERY} iterations."
        ),
        provenance=sources(records),
        scores=details,
    )


if __name__ == "__main__":
    main()
