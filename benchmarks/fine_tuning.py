"""Does fine-tuning improve a model on held-out items? Every gain beside its controls, several seeds.

    python -m benchmarks.fine_tuning --env ReFiT-ML1M-v0 --seeds 5 --workers 2

Cells, each measured on the test split with weights chosen on the validation split alone:

- ``published``: the backbone as published, ELBO training, early stopping.
- ``+ REINFORCE (score)``: the paper's estimator with a leave-one-out baseline and an exploration std.
- ``+ REINFORCE (paper)``: its literal form: no baseline, the posterior's own std, RACS, lr 1e-3, 64 users.
- ``+ REINFORCE``: the default agent (pathwise Rao-Blackwell estimator).
- ``+ more ELBO``: plain further training, as much work (``agents.runs.work``) as ``+ REINFORCE`` took.
- ``same-information ELBO``: the control that RL must stand beside. The input is what the reward's relevance
  leaves visible, the target the whole row; what the reward knows, this loss knows.
- ``same-information ELBO + REINFORCE``: RL on top of it.

One JSON a cell and seed under ``benchmarks/results/fine_tuning/``; finished cells are skipped, so an
interrupted run goes on where it was; stale ones are named, and ``--redo`` measures them again. Checkpoints
lie under ``runs/fine_tuning/``, and are made again where they are gone and needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.algorithms.configs import ReinforceConfig
from agents.experiments.aggregate import gain
from agents.experiments.budgets import budget_note, in_work, mean_work, same, units_of, work_of
from agents.experiments.cells import Outcome, run_cells
from agents.experiments.provenance import sources
from agents.experiments.records import Cell, CellError, other_commits, read_cell
from agents.experiments.tables import plus_minus
from agents.experiments.training import data_of, fine_tuned, further_elbo, pretrained, trained_by
from agents.runs.folder import POLICY
from agents.runs.profiling import measure
from agents.runs.work import Work
from agents.training.pretrain_config import PretrainConfig
from benchmarks.harness import RESULTS, report
from refit_env.backbones import sized_config
from refit_env.errors import unknown_name
from refit_env.evaluation.ranking import evaluate
from refit_env.evaluation.statistics import mean_interval, paired_bootstrap
from refit_env.policy import DiffusionPolicy
from refit_env.registration import entry
from refit_env.utils.atomic_io import read_json

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
SHOWN = ("ndcg@20", "recall@20")
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
        default_factory=lambda: replace(
            ReinforceConfig.preset("score"), iterations=100, samples_per_user=8, eval_every=50
        )
    )
    paper: ReinforceConfig = field(
        default_factory=lambda: replace(ReinforceConfig.preset("paper"), eval_every=50)
    )


RANDOM_SPLIT = Setting(
    relevance="holdout",
    agent=ReinforceConfig(learning_rate=5e-6, relevance_draws=32, eval_every=30),
    score=replace(ReinforceConfig.preset("score"), iterations=60, samples_per_user=8, eval_every=20),
)
"""Where the split is random, short steps and many hold-outs keep REINFORCE from learning one by heart."""

SETTINGS: dict[str, Setting] = {"ReFiT-ML100K-v0": RANDOM_SPLIT, "ReFiT-Anime-v0": RANDOM_SPLIT}
"""By environment id; others take the default."""


@dataclass(frozen=True)
class Made:
    """What a row's maker gives."""

    policy: DiffusionPolicy
    """With the weights that validation chose."""
    how: dict[str, Any]
    """Settings, and where in training the weights were chosen."""
    seconds: float
    """Wall-clock time of training, validation not counted."""
    work: Work
    """Rows through the denoiser, validation not counted."""
    budget: dict[str, Any] | None = None
    """Of a control."""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        key: what ``--cells`` calls it.
        title: what the table calls it.
        parent: the row from whose weights it begins.
        make: how its weights come about.
        uses: fields of ``Setting`` that decide it, besides those of its parent and its needs.
        needs: rows that must be finished before it, besides its parent.
    """

    key: str
    title: str
    parent: str | None
    make: Callable[[str, int, Setting], Made]
    uses: tuple[str, ...]
    needs: tuple[str, ...] = ()


def run_cell(env_id: str, key: str, seed: int) -> dict[str, Any]:
    """Make and judge one cell."""
    row = next(row for row in ROWS if row.key == key)
    setting = SETTINGS.get(env_id, Setting())
    with measure() as usage:
        made = row.make(env_id, seed, setting)
    policy, dataset = made.policy, data_of(env_id)
    policy.save(run_folder(env_id, key, seed), dataset)
    test = evaluate(policy.scorer(dataset), dataset, "test")
    out: dict[str, Any] = {"env": env_id, "cell": key, "seed": seed, "how": made.how}
    out |= {} if made.budget is None else {"budget": made.budget}
    out["cost"] = usage.to_json() | {"training_seconds": made.seconds, "work": made.work.to_json()}
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
    """The cells to run: ``rows`` with all that they need (``choose_rows``)."""
    parents = {row.parent for row in ROWS}
    return [
        Cell(
            cell_key(env_id, row.key, seed),
            run_cell,
            (env_id, row.key, seed),
            decided_by(env_id, row, seed),
            entry(env_id).dataset or "",
            needs=tuple(cell_key(env_id, need, seed) for need in needs_of(row)),
            leaves=run_folder(env_id, row.key, seed) / POLICY if row.key in parents else None,
        )
        for seed in seeds
        for row in rows
    ]


def needs_of(row: Row) -> tuple[str, ...]:
    """The rows that must be finished before a row."""
    return ((row.parent,) if row.parent is not None else ()) + row.needs


def decided_by(env_id: str, row: Row, seed: int) -> dict[str, Any]:
    """What decides a cell's result: its own part of the setting and that of the rows that it needs."""
    setting, model = SETTINGS.get(env_id, Setting()), entry(env_id)
    names, open_rows = set(row.uses), [row]
    while open_rows:
        needed = [other for other in ROWS if other.key in needs_of(open_rows[-1])]
        open_rows = open_rows[:-1] + needed
        names |= {name for other in needed for name in other.uses}
    backbone = {"backbone": model.backbone, "config": sized_config(model.backbone, model.dataset or "")}
    out: dict[str, Any] = {"env": env_id, "cell": row.key, "seed": seed, "num_steps": model.num_steps}
    return out | backbone | {name: getattr(setting, name) for name in sorted(names)}


def run_folder(env_id: str, key: str, seed: int) -> Path:
    """Where a cell's checkpoint lies."""
    return RUNS / env_id / f"{key}-seed{seed}"


# ---------------------------------------------------------------------- how the cells come about


def published(env_id: str, seed: int, setting: Setting) -> Made:
    """ELBO training from scratch; the chain is then respaced to the environment's T."""
    policy, result = pretrained(env_id, setting.pretrain, seed)
    how = {
        "config": asdict(setting.pretrain),
        "backbone": result.backbone.config_dict(),
        "epoch": result.best_epoch,
    }
    return Made(policy, how, result.seconds, result.work)


def reinforce(parent: str, which: str) -> Callable[[str, int, Setting], Made]:
    """REINFORCE on the weights of another cell, with one of the setting's agents."""

    def make(env_id: str, seed: int, setting: Setting) -> Made:
        config: ReinforceConfig = getattr(setting, which)
        policy = DiffusionPolicy.load(run_folder(env_id, parent, seed))
        goal = {
            "reward": setting.reward if which != "paper" else "racs",
            "relevance": setting.relevance,
            "reward_kwargs": setting.reward_kwargs if which != "paper" else {},
        }
        result, taken = fine_tuned("reinforce", policy, env_id, config, goal, seed)
        trained = trained_by(result, taken, data_of(env_id))
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
            "curve": curve,
            "reward": [round(r, 5) for r in rewards],
        }
        return Made(policy, how, trained.training_seconds, result.work)

    return make


def more_elbo(env_id: str, seed: int, setting: Setting) -> Made:
    """The published training, gone on with for as much work as REINFORCE took."""
    budget = work_of(CELLS / f"{cell_key(env_id, 'reinforce', seed)}.json")
    config = replace(
        setting.pretrain,
        max_work=budget,
        epochs=10_000,
        patience=0,
        learning_rate=setting.same.learning_rate,
    )
    return replace(_further(env_id, seed, config), budget=in_work(budget))


def same_information(env_id: str, seed: int, setting: Setting) -> Made:
    """ELBO that predicts the whole row from what the reward's relevance leaves visible."""
    return _further(env_id, seed, replace(setting.same, target=setting.relevance))


def _further(env_id: str, seed: int, config: PretrainConfig) -> Made:
    """Go on training the published model."""
    policy = DiffusionPolicy.load(run_folder(env_id, "published", seed))
    longer, result = further_elbo(policy, data_of(env_id), config, seed)
    how = {"config": asdict(config), "epoch": result.best_epoch}
    return Made(longer, how, result.seconds, result.work)


_GOAL = ("relevance", "reward", "reward_kwargs")
ROWS = (
    Row("published", "DiffRec as published", None, published, ("pretrain",)),
    Row("reinforce", "+ REINFORCE", "published", reinforce("published", "agent"), ("agent", *_GOAL)),
    Row("same", "+ same-information ELBO", "published", same_information, ("same", "relevance")),
    Row(
        "same-reinforce",
        "same-information ELBO + REINFORCE",
        "same",
        reinforce("same", "agent"),
        ("agent", *_GOAL),
    ),
    Row("elbo", "+ more ELBO", "published", more_elbo, ("same",), ("reinforce",)),
    Row(
        "score",
        "+ REINFORCE, score function",
        "published",
        reinforce("published", "score"),
        ("score", *_GOAL),
    ),
    Row(
        "paper", "+ REINFORCE, literal", "published", reinforce("published", "paper"), ("paper", "relevance")
    ),
)
"""In the order of the table; what a row needs stands before it."""


# ---------------------------------------------------------------------- the table


def choose_rows(keys: str) -> list[Row]:
    """The rows named and all that they need, in the table's order; all rows where none is named.

    Raises:
        ValueError: for a key that is not in the table, with a did-you-mean.

    Example:
        >>> [row.key for row in choose_rows("elbo")]
        ['published', 'reinforce', 'elbo']
    """
    known = {row.key: row for row in ROWS}
    wanted = keys.split(",") if keys else list(known)
    for key in wanted:
        if key not in known:
            raise unknown_name("cell", key, known)
    chosen: list[Row] = []
    for row in reversed(ROWS):
        if row.key in wanted or any(row.key in needs_of(other) for other in chosen):
            chosen.insert(0, row)
    return chosen


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
        test = {m: mean_interval([r["test"][m] for r in runs]).to_json() for m in METRICS}
        gains = {m: _gains(runs, found[row.parent], m) for m in METRICS} if row.parent is not None else {}
        seconds, work = float(np.mean([seconds_of(r) for r in runs])), mean_work(runs)
        memory, budget = max(r["cost"]["peak_memory_mib"] for r in runs), sorted(units_of(runs))
        rows.append(
            [
                ", ".join(filter(None, (row.title, same(budget)))),
                *(plus_minus(test[m]) for m in SHOWN),
                *(_percent(gains.get(m)) for m in SHOWN),
                "-" if work is None else f"{work / 1000:.0f}",
                f"{seconds:.0f}",
                f"{memory:.0f}",
            ]
        )
        details[row.key] = {
            "test": test,
            "gain_percent": gains,
            "over": row.parent,
            "work": work,
            "seconds": seconds,
            "budget": budget,
        }
    return rows, details


def seconds_of(record: Mapping[str, Any]) -> float:
    """Wall-clock time of a cell's training."""
    taken = record["cost"].get("training_seconds")
    return float(record["how"]["seconds"] if taken is None else taken)


def _gains(runs: Sequence[Any], base: Sequence[Any], metric: str) -> dict[str, Any] | None:
    """The mean gain over the parent in per cent, seed by seed; None where a parent's metric is 0."""
    found = [gain(run, before, metric) for run, before in zip(runs, base, strict=True)]
    known = [100 * value for value in found if value is not None]
    return mean_interval(known).to_json() if len(known) == len(found) else None


def show(env_id: str, seeds: Sequence[int], chosen: Sequence[Row], command: str) -> None:
    """Print the table and write the result file."""
    rows, details = tabulate(env_id, seeds, chosen)
    cells = [read_cell(CELLS, cell, stale=True) or {} for cell in plan(env_id, chosen, seeds)]
    columns = ["model", "NDCG@20", "Recall@20", "NDCG gain, %", "Recall gain, %", "1000 rows", "seconds"]
    report(
        f"fine_tuning_{env_id}", title=f"Fine-tuning on {env_id} (test)", command=command,
        columns=[*columns, "peak MiB"], rows=rows, note=note(details, len(seeds)), readme=True, cells=details,
        setting=asdict(SETTINGS.get(env_id, Setting())), seeds=list(seeds),
        provenance=sources(cells),
    )  # fmt: skip


def note(details: Mapping[str, Mapping[str, Any]], seeds: int) -> str:
    """What a reader of the table must know.

    Args:
        details: of ``tabulate``.
        seeds: how many.
    """
    budgets = {unit for row in details.values() for unit in row["budget"]}
    counted = all(row["work"] is not None for row in details.values())
    seconds = (
        "1000 rows and seconds are of training, validation not counted: a row is one through the denoiser, "
        "forward and backward, at one step of a chain."
        if counted
        else "These cells are older records: work was not counted, settings, code and data were not "
        "recorded, and seconds include validation in rows with REINFORCE."
    )
    return (
        f"Means over {seeds} seeds +- half a 95 % interval (Student's t over seeds). A gain is over the "
        "row's own starting point: the published model, or the same-information model in the row that names "
        f"it. Weights chosen on validation. {budget_note(budgets)}{seconds} Full ranking, seen items masked; "
        "means over users with test items. One thread."
    )


def _percent(interval: Mapping[str, Any] | None) -> str:
    """A gain in per cent and half its interval; a dash where one seed has none."""
    if interval is None:
        return ""
    half = "-" if interval["low"] is None else f"{(interval['high'] - interval['low']) / 2:.1f}"
    return f"{interval['mean']:+.1f} ± {half}"


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="ReFiT-ML1M-v0")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--cells", default="", help="comma-separated, with all that they need; all if left out"
    )
    parser.add_argument("--redo", action="store_true", help="measure stale cells again")
    parser.add_argument(
        "--finished", action="store_true", help="run nothing: the table of the cells there are"
    )
    options = parser.parse_args()
    seeds, rows = list(range(options.seeds)), choose_rows(options.cells)
    cells = plan(options.env, rows, seeds)
    if not options.finished:
        _run(cells, options.workers, options.redo)
    command = f"python -m benchmarks.fine_tuning --env {options.env} --seeds {options.seeds}"
    show(options.env, seeds, rows, command + (f" --cells {options.cells}" if options.cells else ""))


def _run(cells: Sequence[Cell], workers: int, redo: bool) -> None:
    """Run what is missing; leave the program where a cell is stale or fails."""
    try:
        failed = run_cells(cells, CELLS, workers=workers, tell=_tell, redo=redo)
    except CellError as error:
        sys.exit(str(error))
    if failed:
        sys.exit(f"{len(failed)} cells failed; run the command again to retry")
    if others := other_commits(cells, CELLS):
        print(others)


def _tell(outcome: Outcome) -> None:
    """A line for each cell that ended."""
    if outcome.result is None:
        print(f"FAILED {outcome.cell.key}: {outcome.error}", flush=True)
    else:
        ndcg = outcome.result["test"]["ndcg@20"]
        print(f"{outcome.cell.key}: test NDCG@20 {ndcg:.4f}, {outcome.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
