"""Does fine-tuning make held-out items more likely? Log-densities before and after, beside NDCG.

    python -m benchmarks.likelihood [--only ml-1m_linear] [--seeds 3] [--finished] [--redo]

The paper's summary says that REINFORCE raises the exact log-likelihood by 12.3 %. A density belongs to a
vector and to a chain's noise, so this table names both:

- the vector: a user's train row (what pretraining reconstructs); the train row with the test items (what is
  to be predicted); for DreamRec the embedding of the next item;
- the noise: the deviation with which REINFORCE explores; and, for each model, the deviation under which the
  *validation* vectors are most likely, since a density under a fixed small deviation is little more than the
  squared error divided by it.

The rows: the pretrained model, the same with more of its own loss (the same work as fine-tuning), the same
with REINFORCE, and with regression weighted by the exponential of the reward (arXiv 2603.10279); the item
embeddings of DreamRec stay as they are, so that all rows have the same vectors.
Chains of one step from the history have exact densities; others bounds of ``SAMPLES`` samples, with the
effective number of these.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.algorithms.configs import ReinforceConfig, RWRConfig
from agents.algorithms.reinforce import Reinforce
from agents.algorithms.rwr import RewardWeighted
from agents.experiments.columns import signed
from agents.experiments.provenance import sources
from agents.experiments.records import Cell, read_cell
from agents.runs.work import work_in
from agents.training.pretrain_config import published_training
from agents.training.pretrainer import pretrain
from benchmarks.harness import RESULTS, finish_cells, report
from refit_env.backbones import backbone_for
from refit_env.backbones.closed_form import ClosedForm
from refit_env.data import Dataset, RowDataset, load_dataset
from refit_env.data.rows import SparseRows
from refit_env.diffusion.likelihood import LikelihoodBounds, likelihood_bounds
from refit_env.evaluation.ranking import evaluate
from refit_env.evaluation.statistics import mean_interval
from refit_env.policy import DiffusionPolicy
from refit_env.registration import entry

CELLS = RESULTS / "likelihood.jsonl"
SAMPLES = 64
"""n of the bounds of chains with more than one step."""
USERS = 128
"""Users whose vectors are measured, drawn with the seed."""
DEVIATIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
"""Floors of the deviation, of which validation chooses one for each model."""
ROWS = ("pretrained", "+ more of its loss", "+ REINFORCE", "+ exponential RWR")


@dataclass(frozen=True)
class Model:
    """A model and how its three rows are made."""

    env_id: str
    backbone: str
    num_steps: int
    options: Mapping[str, Any] = field(default_factory=dict)
    pretrain: Mapping[str, Any] = field(default_factory=dict)
    reward: Mapping[str, Any] = field(default_factory=lambda: {"reward": "ndcg", "relevance": "recent"})
    reinforce: Mapping[str, Any] = field(default_factory=dict)


MODELS = {
    "ml-1m_diffrec": Model(
        "ReFiT-ML1M-v0",
        "diffrec",
        5,
        pretrain={"patience": 5},
        reinforce={"iterations": 120, "eval_every": 40},
    ),
    "ml-1m_linear": Model(
        "ReFiT-ML1M-v0",
        "linear",
        1,
        options={"l2": 2000.0, "recency": "rising", "oldest": 0.1, "num_steps": 1},
        reinforce={"iterations": 120, "eval_every": 40, "learning_rate": 1e-4, "anneal_lr": True},
    ),
    "zhihu_dreamrec": Model(
        "ReFiT-Zhihu-v0",
        "dreamrec",
        10,
        options={"similarity": "distance"},
        pretrain={"learning_rate": 1e-3, "patience": 6},
        reward={"reward": "log_rank", "relevance": "train"},
        reinforce={
            "users_per_batch": 512,
            "learning_rate": 2e-3,
            "exploration_std": 0.5,
            "iterations": 100,
            "eval_every": 20,
        },
    ),
}


@dataclass(frozen=True)
class Vectors:
    """Clean vectors and what a chain needs to make them."""

    x0: Tensor
    """(B, D)."""
    start: Tensor
    """(B, D) means of u_T."""
    context: Tensor | None
    """(B, C)."""


def vectors(policy: DiffusionPolicy, data: Dataset, which: str, seed: int) -> Vectors:
    """Return the vectors of users drawn by the seed.

    Args:
        policy: gives the inputs, and the embeddings of items.
        data: the data set.
        which: ``"train"`` (a user's own row), or ``"valid"`` or ``"test"`` (with that split's items, or the
            embedding of the next item).
        seed: of the draw.
    """
    model, device = policy.backbone, policy.device
    rows = data.episodes
    items = rows.train if which == "train" else getattr(rows, which)
    if isinstance(rows, RowDataset) and which == "train":
        items = rows.targets  # of rows, the train split holds the histories
    with_items = np.unique(items.users)
    drawn = np.random.default_rng(seed).permutation(with_items)[:USERS]
    users = torch.as_tensor(drawn, device=device)  # (B,)
    shown = model.shown(data, device)(users)
    start, context = model.initial_state(users, shown), model.context(users, shown)
    if isinstance(rows, RowDataset):
        target = items.csr[drawn].indices  # one item a row
        table = model.score_table()
        assert table is not None
        x0 = table.detach()[torch.as_tensor(target, device=device)]  # (B, D)
    else:
        together = rows.train.csr if which == "train" else rows.train.csr.maximum(items.csr)
        x0 = SparseRows(together, device).dense(users)  # (B, I)
    return Vectors(x0, start, context)


def bounds(policy: DiffusionPolicy, goal: Vectors, seed: int) -> LikelihoodBounds:
    """Return the bounds of vectors; chains that start from noise draw u_T from N(0, I)."""
    generator = torch.Generator(policy.device).manual_seed(seed)
    noise = 1.0 if policy.backbone.start == "noise" else 0.0
    exact = policy.num_steps == 1 and noise == 0.0
    return likelihood_bounds(
        policy,
        goal.x0,
        goal.start,
        goal.context,
        start_std=noise,
        samples=1 if exact else SAMPLES,
        generator=generator,
    )


def measured(policy: DiffusionPolicy, data: Dataset, seed: int, exploration: float) -> dict[str, float]:
    """Return NDCG and the log-densities of a model, in nats a dimension."""
    policy = policy.eval()
    out = {"ndcg": evaluate(policy.scorer(data), data, "test", device=policy.device).means()["ndcg@20"]}
    goals = {which: vectors(policy, data, which, seed) for which in ("train", "valid", "test")}
    size = policy.backbone.dim

    def value(which: str, std: float) -> tuple[float, float]:
        policy.set_exploration(std)
        found = bounds(policy, goals[which], seed)
        return float(found.importance.mean()) / size, float(found.effective.median())

    out["fitted_std"] = max(DEVIATIONS, key=lambda std: value("valid", std)[0])
    for name, std in (("exploration", exploration), ("fitted", out["fitted_std"])):
        for which in ("train", "test"):
            out[f"{which}_{name}"], out[f"{which}_{name}_effective"] = value(which, std)
    policy.set_exploration(exploration)
    return out


def cell(name: str, seed: int, device: str) -> dict[str, Any]:
    """Train the rows of a model, and measure each."""
    plan = MODELS[name]
    data_name = entry(plan.env_id).dataset
    assert data_name is not None
    data = load_dataset(data_name)
    model = backbone_for(data, plan.backbone, plan.options, seed=seed)
    training = replace(published_training(plan.backbone, data_name), **plan.pretrain)
    if isinstance(model, ClosedForm):
        model.fit(data)
    else:
        model = pretrain(data, model, training, seed=seed, device=device).backbone
    config = ReinforceConfig(**plan.reinforce)
    policy = DiffusionPolicy(model, plan.num_steps, exploration_std=config.exploration_std).to(device)
    out = {ROWS[0]: measured(policy, data, seed, config.exploration_std)}
    kwargs = dict(plan.reward) | {"backbone": plan.backbone, "num_steps": plan.num_steps}
    with tempfile.TemporaryDirectory() as folder:
        if policy.backbone.embedding:  # its environment scores with the weights of a run folder
            policy.save(folder, data)
            kwargs["checkpoint"] = folder
        common: dict[str, Any] = {"env_kwargs": kwargs, "seed": seed, "device": device}
        result = Reinforce(copy.deepcopy(policy), plan.env_id, config, **common).learn()
        weighted = replace(RWRConfig.preset("exponential"), **plan.reinforce)
        supervised = RewardWeighted(copy.deepcopy(policy), plan.env_id, weighted, **common).learn()
    for row, tuned in ((ROWS[2], result), (ROWS[3], supervised)):
        out[row] = measured(tuned.policy, data, seed, config.exploration_std)
    units = work_in(result.history).units
    more = copy.deepcopy(policy)
    if more.backbone.embedding:
        more.backbone.freeze_scores()
    settings = replace(training, epochs=10_000, max_work=units, eval_every=1)
    longer = pretrain(data, more.backbone, settings, seed=seed + 1, device=device)
    more.backbone.load_state_dict(longer.backbone.state_dict())
    out[ROWS[1]] = measured(more, data, seed, config.exploration_std)
    return {"rows": {row: out[row] for row in ROWS}, "work": units}


def plan(seeds: int, only: str | None, device: str) -> list[Cell]:
    """Return the cells: a model and a seed each."""
    return [
        Cell(
            f"{name}_{seed}",
            cell,
            (name, seed, device),
            {
                "env": model.env_id,
                "backbone": model.backbone,
                "num_steps": model.num_steps,
                "options": dict(model.options),
                "pretrain": dict(model.pretrain),
                "env_kwargs": dict(model.reward),
                "reinforce": dict(model.reinforce),
                "samples": SAMPLES,
                "users": USERS,
                "seed": seed,
            },
            name.split("_")[0],
        )
        for name, model in MODELS.items()
        if only in (None, name)
        for seed in range(seeds)
    ]


def tabulate(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return the table's rows: means over seeds; densities in nats a dimension.

    Differences are to the pretrained model of the same seed, with Student's interval.

    Args:
        found: the results of cells, by key.
    """
    table = []
    for name in MODELS:
        every = [result["rows"] for key, result in found.items() if key.rsplit("_", 1)[0] == name]
        for row in ROWS:
            results = [rows[row] for rows in every if row in rows]
            if not results:
                continue
            mean = {key: float(np.mean([each[key] for each in results])) for key in results[0]}
            pairs = [(rows[row], rows[ROWS[0]]) for rows in every if row in rows]
            table.append(
                [f"{name.replace('_', ', ')}: {row}", f"{mean['ndcg']:.4f}"]
                + [f"{mean[key]:+.3f}" for key in ("train_exploration", "test_exploration")]
                + [f"{mean['fitted_std']:.2f}"]
                + [f"{mean[key]:+.4f}" for key in ("train_fitted", "test_fitted")]
                + [
                    "" if row == ROWS[0] else less(pairs, key)
                    for key in ("ndcg", "train_fitted", "test_fitted")
                ]
                + [f"{mean['test_fitted_effective']:.0f}", str(len(results))]
            )
    return table


def less(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], key: str) -> str:
    """Return the mean difference in pairs and half its 95 % interval, starred where that excludes zero.

    Example:
        >>> less([({"ndcg": 0.2}, {"ndcg": 0.1}), ({"ndcg": 0.3}, {"ndcg": 0.2})], "ndcg")
        '+0.1000 ± 0.0000 *'
    """
    found = mean_interval([one[key] - other[key] for one, other in pairs])
    known = {"mean": found.mean, "low": found.low if len(pairs) > 1 else None, "high": found.high}
    return signed(known | {"excludes_zero": found.low > 0 or found.high < 0})


def main() -> None:
    """Measure missing cells, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--only", choices=list(MODELS), help="one model")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--finished", action="store_true", help="only tabulate the cells that are finished")
    parser.add_argument("--redo", action="store_true", help="measure stale cells again")
    options = parser.parse_args()
    if not options.finished:
        finish_cells(plan(options.seeds, options.only, options.device), CELLS, redo=options.redo)
    every = plan(options.seeds, None, options.device)
    found = {
        each.key: got for each in every if (got := read_cell(CELLS, each, stale=options.finished)) is not None
    }
    report(
        "likelihood",
        title="What fine-tuning does to the likelihood",
        command=f"python -m benchmarks.likelihood --seeds {options.seeds}",
        columns=[
            "model",
            "NDCG@20",
            "train row",
            "with test items",
            "fitted std",
            "train row, fitted",
            "with test items, fitted",
            "NDCG@20 less pretrained",
            "train row, less pretrained",
            "with test items, less pretrained",
            "effective samples",
            "seeds",
        ],
        rows=tabulate(found),
        note=(
            f"Log-densities of {USERS} users' vectors in nats a dimension: exact for one step from the "
            f"history, else bounds of {SAMPLES} samples. The first two at the deviation with which REINFORCE "
            "explores, the next two at the one under which the validation vectors are most likely; the "
            "differences are at that one, to the pretrained model of the same seed, with a 95 % interval "
            "over seeds (each measures other users), * where it excludes zero. For DreamRec the vector is "
            "the embedding of the next item, and the first of each pair is that of train rows."
        ),
        provenance=sources(found.values()),
    )


if __name__ == "__main__":
    main()
