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
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.pretrain import PretrainConfig, pretrain
from agents.reinforce import Reinforce, ReinforceConfig, preset
from agents.resources import measure
from agents.stats import mean_interval, paired_bootstrap
from benchmarks.harness import RESULTS, report
from refit_env.data import load_dataset
from refit_env.errors import unknown_name
from refit_env.evaluation import evaluate
from refit_env.files import read_json, write_json
from refit_env.policy import DiffusionPolicy
from refit_env.registration import entry

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
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
            learning_rate=1e-4, epochs=30, eval_every=5, patience=15, select_on="ndcg@20"
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
class Cell:
    """One row of the table: how its weights come about, from whose."""

    key: str
    title: str
    parent: str | None
    make: Callable[[str, int, Setting], tuple[DiffusionPolicy, dict[str, Any]]]


def run_cell(env_id: str, cell: Cell, seed: int) -> dict[str, Any]:
    """Make and judge one cell, or read what an earlier run found."""
    path = RESULTS / "fine_tuning" / f"{env_id}_{cell.key}_seed{seed}.json"
    if path.exists():
        found: dict[str, Any] = read_json(path)
        return found
    setting = SETTINGS.get(env_id, Setting())
    with measure() as usage:
        policy, how = cell.make(env_id, seed, setting)
    dataset = load_dataset(entry(env_id).dataset or "")
    folder = run_folder(env_id, cell.key, seed)
    policy.save(folder, dataset.name)
    test = evaluate(policy.scorer(dataset), dataset, "test")
    out: dict[str, Any] = {"env": env_id, "cell": cell.key, "seed": seed, "how": how, "cost": usage.to_json()}
    out["test"] = test.means()
    out["test_over_all_users"] = test.means_over_all()
    out["valid"] = evaluate(policy.scorer(dataset), dataset, "valid").means()
    if cell.parent is not None:
        before = evaluate(
            DiffusionPolicy.load(run_folder(env_id, cell.parent, seed)).scorer(dataset), dataset, "test"
        )
        out["over"] = cell.parent
        out["paired_bootstrap"] = {
            name: paired_bootstrap(before.per_user[name], test.per_user[name]).to_json() for name in METRICS
        }
    write_json(path, out)
    return out


def run_folder(env_id: str, key: str, seed: int) -> Path:
    """Where a cell's checkpoint lies."""
    return RUNS / env_id / f"{key}-seed{seed}"


# ---------------------------------------------------------------------- how the cells come about


def published(env_id: str, seed: int, setting: Setting) -> tuple[DiffusionPolicy, dict[str, Any]]:
    """ELBO training from scratch; the chain is then respaced to the environment's T."""
    row = entry(env_id)
    result = pretrain(
        load_dataset(row.dataset or ""), row.backbone, setting.pretrain, seed=seed, device="cpu"
    )
    how = {
        "config": asdict(setting.pretrain),
        "backbone": result.backbone.config_dict(),
        "epoch": result.best_epoch,
    }
    return DiffusionPolicy(result.backbone, row.num_steps), how | {"seconds": result.seconds}


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
        agent = Reinforce(policy, env_id, config, env_kwargs=goal, seed=seed, device="cpu")
        result = agent.learn()
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
    told = read_json(RESULTS / "fine_tuning" / f"{env_id}_reinforce_seed{seed}.json")
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
    dataset = load_dataset(entry(env_id).dataset or "")
    result = pretrain(dataset, policy.backbone, config, seed=seed, device="cpu")
    how = {"config": asdict(config), "epoch": result.best_epoch, "seconds": result.seconds}
    return DiffusionPolicy(result.backbone, policy.num_steps), how


CELLS = (
    Cell("published", "DiffRec as published", None, published),
    Cell("reinforce", "+ REINFORCE", "published", reinforce("published", "agent")),
    Cell("same", "+ same-information ELBO", "published", same_information),
    Cell("same-reinforce", "same-information ELBO + REINFORCE", "same", reinforce("same", "agent")),
    Cell("elbo", "+ more ELBO, same wall-clock", "published", more_elbo),
    Cell("score", "+ REINFORCE, score function", "published", reinforce("published", "score")),
    Cell("paper", "+ REINFORCE, literal", "published", reinforce("published", "paper")),
)


# ---------------------------------------------------------------------- the table


def run_seed(env_id: str, seed: int, keys: str) -> int:
    """The cells of a seed, in order; one thread, so that two seeds fit on two cores."""
    torch.set_num_threads(1)
    for cell in choose_cells(keys):
        run_cell(env_id, cell, seed)
    return seed


def choose_cells(keys: str) -> list[Cell]:
    """The cells named, in the table's order; all of them where none is."""
    known = {cell.key: cell for cell in CELLS}
    wanted = keys.split(",") if keys else list(known)
    for key in wanted:
        if key not in known:
            raise unknown_name("cell", key, known)
    return [cell for cell in CELLS if cell.key in wanted]


def tabulate(env_id: str, seeds: Sequence[int], cells: Sequence[Cell], command: str) -> None:
    """Print the means over seeds with their intervals, and write the result file."""
    found = {c.key: [run_cell(env_id, c, s) for s in seeds] for c in cells}
    rows, details = [], {}
    for cell in cells:
        runs = found[cell.key]
        means = {m: mean_interval([r["test"][m] for r in runs]) for m in METRICS}
        line = [_interval(means["ndcg@20"]), _interval(means["recall@20"])]
        gain = {}
        if cell.parent is not None:
            for m in METRICS:
                base = [r["test"][m] for r in found[cell.parent]]
                gain[m] = mean_interval(
                    [100 * (r["test"][m] / b - 1) for r, b in zip(runs, base, strict=True)]
                )
            line += [_percent(gain["ndcg@20"]), _percent(gain["recall@20"])]
        else:
            line += ["", ""]
        seconds = float(np.mean([r["how"]["seconds"] for r in runs]))
        memory = max(r["cost"]["peak_memory_mib"] for r in runs)
        rows.append([cell.title, *line, f"{seconds:.0f}", f"{memory:.0f}"])
        details[cell.key] = {
            "test": {m: i.to_json() for m, i in means.items()},
            "gain_percent": {m: i.to_json() for m, i in gain.items()},
            "over": cell.parent,
            "seconds": seconds,
        }
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
    seeds, cells = list(range(options.seeds)), choose_cells(options.cells)
    with ProcessPoolExecutor(max_workers=options.workers) as pool:
        jobs = [pool.submit(run_seed, options.env, seed, options.cells) for seed in seeds]
        for job in as_completed(jobs):
            print(f"seed {job.result()} done", flush=True)
    command = f"python -m benchmarks.fine_tuning --env {options.env} --seeds {options.seeds}"
    tabulate(options.env, seeds, cells, command + (f" --cells {options.cells}" if options.cells else ""))


if __name__ == "__main__":
    main()
