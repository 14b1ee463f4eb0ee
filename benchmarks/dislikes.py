"""Measures how many disliked items lists hold: fine-tuning with the reward ``dislikes``, and simple controls.

    refit data prepare low --source u.data --format u.data --split time --min-rating 4 --dislike-below 3
    python -m benchmarks.dislikes --data low --out dislikes.jsonl

The controls have the same information, the dislikes of the train split: ``masked`` leaves a user's own out of
the lists, ``subtracted`` scores by (X - a D) W, with X and D the users' train items and dislikes, W the
model's matrix. Each row is measured once, by NDCG@20 and by the share of held-out dislikes in the lists, on
validation and test.

Letters: U users, I items, B users in a batch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.algorithms.reinforce import Reinforce
from agents.training.closed_form import fit_closed_form
from agents.training.closed_form_search import fitted_policy
from agents.tuning.defaults import default_finetuning
from agents.tuning.inspection import inspect_data
from benchmarks.harness import report
from refit_env.data import Dataset, load_dataset
from refit_env.data.rows import SparseRows
from refit_env.evaluation.ranking import ScoreFunction, evaluate

WEIGHTS = (0.0, 1.0, 3.0)
"""Weights of ``dislikes`` beside ``ndcg``."""
FACTORS = (0.1, 0.3, 1.0)
"""Values of a."""
ITERATIONS = 60
METRICS = ("ndcg@20", "dislikes@20")


def models(
    dataset: Dataset, data: str, settings: dict[str, Any]
) -> Iterator[tuple[str, Callable[[], ScoreFunction]]]:
    """Yield the rows: name, and a function that makes the scores."""
    cpu = torch.device("cpu")
    low = dataset.disliked("train")
    assert low is not None, "the data has no dislikes: prepare it with --dislike-below"
    start = fitted_policy(dataset, "linear", settings, 1, cpu)
    own, disliked = start.scorer(dataset), SparseRows(low)
    weight = start.backbone.get_parameter("weight")[0].detach()  # (I, I)

    def masked(users: Tensor) -> Tensor:
        """(B, I) the start's scores, without the user's own dislikes."""
        return own(users).masked_fill(disliked.mask(users), -1e9)

    def subtracted(factor: float) -> ScoreFunction:
        return lambda users: masked(users) - factor * disliked.dense(users) @ weight

    def tuned(share: float) -> ScoreFunction:
        policy = fitted_policy(dataset, "linear", settings, 1, cpu)
        chosen = default_finetuning(inspect_data(dataset), "linear")
        agent = replace(
            chosen.agent, learning_rate=1e-4, exploration_std=0.05, iterations=ITERATIONS, blends=0
        )
        reward = {"ndcg": 1.0, "dislikes": share} if share else "ndcg"
        env = {"data": data, **chosen.env, "reward": reward}
        trained = Reinforce(policy, "ReFiT-Custom-v0", agent, env_kwargs=env, device=cpu)
        trained.learn()
        last = {name.removeprefix("backbone."): value for name, value in trained.training_weights().items()}
        policy.backbone.load_state_dict({k: v for k, v in last.items() if k in policy.backbone.state_dict()})
        score = policy.scorer(dataset)
        return lambda users: score(users).masked_fill(disliked.mask(users), -1e9)

    yield "linear", lambda: own
    yield "linear, masked", lambda: masked
    for factor in FACTORS:
        yield f"linear, subtracted, a = {factor:g}", partial(subtracted, factor)
    for share in WEIGHTS:
        yield f"REINFORCE, ndcg + {share:g} dislikes, masked", partial(tuned, share)


def run(data: str, out: Path) -> list[dict[str, Any]]:
    """Measure the rows that are missing, and return all."""
    dataset = load_dataset(data)
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out.exists() else []
    known = {row["name"] for row in rows}
    if not rows:
        chosen = fit_closed_form(dataset, "linear", device="cpu").backbone.config_dict()
        out.write_text(json.dumps({"name": "settings", "settings": chosen}) + "\n", "utf-8")
        return run(data, out)
    for name, make in models(dataset, data, rows[0]["settings"]):
        if name not in known:
            score = make()
            found = {split: evaluate(score, dataset, split).means() for split in ("valid", "test")}
            row = {"name": name} | {
                f"{split}/{metric}": means[metric] for split, means in found.items() for metric in METRICS
            }
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            rows.append(row)
            print(row, flush=True)
    return rows[1:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, help="name or folder of a data set with dislikes")
    parser.add_argument("--out", type=Path, required=True, help="JSON Lines file of the rows")
    given = parser.parse_args(arguments)
    columns = [f"{split}/{metric}" for split in ("valid", "test") for metric in METRICS]
    rows = run(given.data, given.out)
    report(
        "dislikes",
        title=f"Disliked items in lists ({Path(given.data).name})",
        command="python -m benchmarks.dislikes --data low --out dislikes.jsonl",
        columns=["model", *columns],
        rows=[[row["name"], *(f"{row[column]:.4f}" for column in columns)] for row in rows],
        rows_raw=rows,
    )


if __name__ == "__main__":
    main()
