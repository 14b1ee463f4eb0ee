"""Does fine-tuning improve a model on held-out items? Every gain beside its controls, several seeds.

    python -m benchmarks.fine_tuning --env ReFiT-ML1M-v0 --seeds 5 --workers 2

Cells, each measured on the test split with weights chosen on the validation split alone:

- ``published``: the backbone as published, ELBO training, early stopping.
- ``+ REINFORCE (score)``: the paper's estimator with a leave-one-out baseline and an exploration std.
- ``+ REINFORCE (paper)``: its literal form: no baseline, the posterior's own std, RACS, lr 1e-3, 64 users.
- ``+ REINFORCE``: the default agent (pathwise Rao-Blackwell estimator).
- ``+ more ELBO``: plain further training for the wall-clock time that ``+ REINFORCE`` took.
- ``same-information ELBO``: the control that RL must stand beside. The input is what the reward's relevance
  leaves visible, the target the whole row; what the reward knows, this loss knows.
- ``same-information ELBO + REINFORCE``: RL on top of it.

One JSON a cell and seed under ``benchmarks/results/fine_tuning/``; finished cells are skipped, so an
interrupted run goes on where it was. Checkpoints lie under ``runs/fine_tuning/``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.comparison.cells import Cell, Outcome, run_cells
from agents.comparison.training import data_of, fine_tuned, further_elbo, pretrained
from agents.pretrain_config import PretrainConfig
from agents.reinforce import ReinforceConfig, preset
from agents.resources import measure
from agents.stats import mean_interval, paired_bootstrap
from benchmarks.harness import RESULTS, report
from refit_env.errors import unknown_name
from refit_env.evaluation import evaluate
from refit_env.files import read_json
from refit_env.policy import DiffusionPolicy

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
CELLS = RESULTS / "fine_tuning"
RUNS = Path("runs") / "fine_tuning"


@dataclass(frozen=True)
class Setting:
    """What was found on the validation split for one data set."""

    relevance: str = "recent"
    reward: str = "ndcg"
    reward_kwargs: dict[str, Any] = field(default_factory=dict)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    same: PretrainConfig = field(
        default_factory=lambda: PretrainConfig(
            learning_rate=1e-4, epochs=30, eval_every=5, patience=3, select_on="ndcg@20"
        )
    )
    agent: ReinforceConfig = field(default_factory=lambda: ReinforceConfig(eval_every=50))
    score: ReinforceConfig = field(
        default_factory=lambda: replace(preset("score"), iterations=100, samples_per_user=8, eval_every=50)
    )
    paper: ReinforceConfig = field(default_factory=lambda: replace(preset("paper"), eval_every=50))


RANDOM_SPLIT = Setting(
    relevance="holdout",
    agent=ReinforceConfig(learning_rate=5e-6, relevance_draws=32, eval_every=30),
    score=replace(preset("score"), iterations=60, samples_per_user=8, eval_every=20),
)
"""Where the split is random, short steps and many hold-outs keep REINFORCE from learning one by heart."""

SETTINGS: dict[str, Setting] = {"ReFiT-ML100K-v0": RANDOM_SPLIT, "ReFiT-Anime-v0": RANDOM_SPLIT}
"""By environment id; others take the default."""


@dataclass(frozen=True)
class Row:
    """One row of the table: how its weights come about, from whose."""

    key: str
    title: str
    parent: str | None
    make: Callable[[str, int, Setting], tuple[DiffusionPolicy, dict[str, Any]]]
    needs: tuple[str, ...] = ()


def run_cell(env_id: str, key: str, seed: int) -> dict[str, Any]:
    """Make and judge one cell."""
    row = next(row for row in ROWS if row.key == key)
    setting = SETTINGS.get(env_id, Setting())
    with measure() as usage:
        policy, how = row.make(env_id, seed, setting)
    dataset = data_of(env_id)
    policy.save(run_folder(env_id, key, seed), dataset.name)
    test = evaluate(policy.scorer(dataset), dataset, "test")
    out: dict[str, Any] = {"env": env_id, "cell": key, "seed": seed, "how": how, "cost": usage.to_json()}
    out["test"] = test.means()
    out["test_over_all_users"] = test.means_over_all()
    out["valid"] = evaluate(policy.scorer(dataset), dataset, "valid").means()
    if row.parent is not None:
        before = evaluate(
            DiffusionPolicy.load(run_folder(env_id, row.parent, seed)).scorer(dataset), dataset, "test"
        )
        out["over"] = row.parent
        out["paired_bootstrap"] = {
            name: paired_bootstrap(before.per_user[name], test.per_user[name]).to_json() for name in METRICS
        }
    return out


def cell_key(env_id: str, key: str, seed: int) -> str:
    """Stem of a cell's file."""
    return f"{env_id}_{key}_seed{seed}"


def plan(env_id: str, rows: Sequence[Row], seeds: Sequence[int]) -> list[Cell]:
    """The cells to run; a row that was not asked for is taken to be there if another needs it."""
    asked = {row.key for row in rows}
    return [
        Cell(
            cell_key(env_id, row.key, seed),
            run_cell,
            (env_id, row.key, seed),
            needs=tuple(
                cell_key(env_id, need, seed)
                for need in (row.parent, *row.needs)
                if need is not None and need in asked
            ),
        )
        for seed in seeds
        for row in rows
    ]


def run_folder(env_id: str, key: str, seed: int) -> Path:
    """Where a cell's checkpoint lies."""
    return RUNS / env_id / f"{key}-seed{seed}"


# ---------------------------------------------------------------------- how the cells come about


def published(env_id: str, seed: int, setting: Setting) -> tuple[DiffusionPolicy, dict[str, Any]]:
    """ELBO training from scratch; the chain is then respaced to the environment's T."""
    policy, result = pretrained(env_id, setting.pretrain, seed)
    how = {
        "config": asdict(setting.pretrain),
        "backbone": result.backbone.config_dict(),
        "epoch": result.best_epoch,
    }
    return policy, how | {"seconds": result.seconds}


def reinforce(
    parent: str, which: str
) -> Callable[[str, int, Setting], tuple[DiffusionPolicy, dict[str, Any]]]:
    """REINFORCE on the weights of another cell, with one of the setting's agents."""

    def make(env_id: str, seed: int, setting: Setting) -> tuple[DiffusionPolicy, dict[str, Any]]:
        config: ReinforceConfig = getattr(setting, which)
        policy = DiffusionPolicy.load(run_folder(env_id, parent, seed))
        goal = {
            "reward": setting.reward if which != "paper" else "racs",
            "relevance": setting.relevance,
            "reward_kwargs": setting.reward_kwargs if which != "paper" else {},
        }
        result, _ = fine_tuned("reinforce", policy, env_id, config, goal, seed)
        curve = [
            {k: h[k] for k in ("iteration", "valid/ndcg@20", "valid/recall@20")}
            for h in result.history
            if "valid/ndcg@20" in h
        ]
        rewards = [h["reward/mean"] for h in result.history if "reward/mean" in h]
        how = {
            "config": asdict(config),
            "env_kwargs": goal,
            "iteration": result.best_iteration,
            "seconds": result.seconds,
        }
        return policy, how | {"curve": curve, "reward": [round(r, 5) for r in rewards]}

    return make


def more_elbo(env_id: str, seed: int, setting: Setting) -> tuple[DiffusionPolicy, dict[str, Any]]:
    """The published training, gone on with for as long as REINFORCE took, validations included in both."""
    told = read_json(CELLS / f"{cell_key(env_id, 'reinforce', seed)}.json")
    limit = float(told["how"]["seconds"])
    config = replace(
        setting.pretrain,
        max_seconds=limit,
        epochs=10_000,
        patience=0,
        learning_rate=setting.same.learning_rate,
    )
    return _further(env_id, seed, config)


def same_information(env_id: str, seed: int, setting: Setting) -> tuple[DiffusionPolicy, dict[str, Any]]:
    """ELBO that predicts the whole row from what the reward's relevance leaves visible."""
    return _further(env_id, seed, replace(setting.same, target=setting.relevance))


def _further(env_id: str, seed: int, config: PretrainConfig) -> tuple[DiffusionPolicy, dict[str, Any]]:
    """Go on training the published model."""
    policy = DiffusionPolicy.load(run_folder(env_id, "published", seed))
    longer, result = further_elbo(policy, data_of(env_id), config, seed)
    return longer, {"config": asdict(config), "epoch": result.best_epoch, "seconds": result.seconds}


ROWS = (
    Row("published", "DiffRec as published", None, published),
    Row("reinforce", "+ REINFORCE", "published", reinforce("published", "agent")),
    Row("same", "+ same-information ELBO", "published", same_information),
    Row("same-reinforce", "same-information ELBO + REINFORCE", "same", reinforce("same", "agent")),
    Row("elbo", "+ more ELBO, same wall-clock", "published", more_elbo, ("reinforce",)),
    Row("score", "+ REINFORCE, score function", "published", reinforce("published", "score")),
    Row("paper", "+ REINFORCE, literal", "published", reinforce("published", "paper")),
)


# ---------------------------------------------------------------------- the table


def choose_rows(keys: str) -> list[Row]:
    """The rows named, in the table's order; all of them where none is."""
    known = {row.key: row for row in ROWS}
    wanted = keys.split(",") if keys else list(known)
    for key in wanted:
        if key not in known:
            raise unknown_name("cell", key, known)
    return [row for row in ROWS if row.key in wanted]


def tabulate(
    env_id: str, seeds: Sequence[int], chosen: Sequence[Row]
) -> tuple[list[list[str]], dict[str, Any]]:
    """The table's rows, and the figures behind them: means over seeds with their intervals."""
    found = {
        row.key: [read_json(CELLS / f"{cell_key(env_id, row.key, seed)}.json") for seed in seeds]
        for row in chosen
    }
    rows, details = [], {}
    for row in chosen:
        runs = found[row.key]
        means = {m: mean_interval([r["test"][m] for r in runs]) for m in METRICS}
        line = [_interval(means["ndcg@20"]), _interval(means["recall@20"])]
        gain = {}
        if row.parent is not None:
            for m in METRICS:
                base = [r["test"][m] for r in found[row.parent]]
                gain[m] = mean_interval(
                    [100 * (r["test"][m] / b - 1) for r, b in zip(runs, base, strict=True)]
                )
            line += [_percent(gain["ndcg@20"]), _percent(gain["recall@20"])]
        else:
            line += ["", ""]
        seconds = float(np.mean([r["how"]["seconds"] for r in runs]))
        memory = max(r["cost"]["peak_memory_mib"] for r in runs)
        rows.append([row.title, *line, f"{seconds:.0f}", f"{memory:.0f}"])
        details[row.key] = {
            "test": {m: i.to_json() for m, i in means.items()},
            "gain_percent": {m: i.to_json() for m, i in gain.items()},
            "over": row.parent,
            "seconds": seconds,
        }
    return rows, details


def show(env_id: str, seeds: Sequence[int], chosen: Sequence[Row], command: str) -> None:
    """Print the table and write the result file."""
    rows, details = tabulate(env_id, seeds, chosen)
    columns = ["model", "NDCG@20", "Recall@20", "NDCG gain, %", "Recall gain, %", "seconds", "peak MiB"]
    note = (
        f"Means over {len(seeds)} seeds +- half a 95 % interval (Student's t over seeds). A gain is over the "
        "row's own starting point: the published model, or the same-information model in the row that names "
        "it. Weights chosen on validation; test items masked from nothing but seen ones; means over users "
        "with test items. One thread."
    )
    setting = asdict(SETTINGS.get(env_id, Setting()))
    report(
        f"fine_tuning_{env_id}", title=f"Fine-tuning on {env_id} (test)", command=command,
        columns=columns, rows=rows, note=note, readme=True, cells=details, setting=setting, seeds=list(seeds),
    )  # fmt: skip


def _interval(interval: Any) -> str:
    half = (interval.high - interval.low) / 2
    return f"{interval.mean:.4f} ± {half:.4f}"


def _percent(interval: Any) -> str:
    half = (interval.high - interval.low) / 2
    return f"{interval.mean:+.1f} ± {half:.1f}"


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="ReFiT-ML1M-v0")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cells", default="", help="comma-separated; all if left out")
    options = parser.parse_args()
    seeds, rows = list(range(options.seeds)), choose_rows(options.cells)
    failed = run_cells(plan(options.env, rows, seeds), CELLS, workers=options.workers, tell=_tell)
    if failed:
        sys.exit(f"{len(failed)} cells failed; run the command again to retry")
    command = f"python -m benchmarks.fine_tuning --env {options.env} --seeds {options.seeds}"
    show(options.env, seeds, rows, command + (f" --cells {options.cells}" if options.cells else ""))


def _tell(outcome: Outcome) -> None:
    """A line for each cell that ended."""
    if outcome.result is None:
        print(f"FAILED {outcome.cell.key}: {outcome.error}", flush=True)
    else:
        ndcg = outcome.result["test"]["ndcg@20"]
        print(f"{outcome.cell.key}: test NDCG@20 {ndcg:.4f}, {outcome.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
