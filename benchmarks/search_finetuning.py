"""Which settings suit an environment? A few named ones, tried and chosen on the validation split alone.

    python -m benchmarks.search_finetuning --env ReFiT-YooChoose-v0

A grid (``GRIDS``) has *starts*, ways to pretrain, and *variants*, ways to fine-tune one of them by REINFORCE.
Each is a cell of its own with seed 100, which no comparison uses, and one JSON under
``benchmarks/results/search/``; finished cells are skipped, so an interrupted search goes on where it was and
a grid can grow; stale ones are named, and ``--redo`` measures them again. Checkpoints lie under
``runs/search/`` and are made again where they are gone.

No test item is looked at. ``gain`` is the relative gain in validation NDCG@20 of the weights that validation
chose, which are those whose gain it is: the figure ranks variants, it is no measurement. Of each start, the
variant is chosen that took least work (``agents.runs.work``) among those that keep most of the best one's
gain (``KEEP``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agents.algorithms.configs import ReinforceConfig
from agents.experiments.cells import Outcome, run_cells
from agents.experiments.provenance import sources
from agents.experiments.records import Cell, CellError, unfinished
from agents.experiments.training import data_of, fine_tuned, rewarded_validation
from agents.hyperparams.search import GRIDS, Grid, Start, Variant
from agents.training.pretrain_config import published_training
from agents.training.pretrainer import pretrain
from benchmarks.harness import RESULTS, report
from refit_env.backbones import backbone_for
from refit_env.errors import unknown_name
from refit_env.evaluation.ranking import evaluate
from refit_env.evaluation.statistics import paired_bootstrap
from refit_env.policy import DiffusionPolicy
from refit_env.registration import entry
from refit_env.utils.atomic_io import read_json

SEED = 100
"""No comparison trains with it, so what is chosen here was not fitted to a run that is reported."""
KEEP = 0.9
"""Share of the best gain for which a variant of less work is preferred."""
CELLS = RESULTS / "search"
RUNS = Path("runs") / "search"
CURVE = ("valid/ndcg@20", "valid/recall@20")


def start_folder(env_id: str, name: str) -> Path:
    """Where a pretrained model lies."""
    return RUNS / env_id / name


def run_start(env_id: str, name: str, start: Start) -> dict[str, Any]:
    """Pretrain a model and keep it."""
    row, dataset = entry(env_id), data_of(env_id)
    backbone = backbone_for(dataset, row.backbone, start.backbone, size=start.size, seed=SEED)
    config = replace(published_training(row.backbone, dataset.name), **start.training)
    result = pretrain(dataset, backbone, config, seed=SEED, device="cpu")
    policy = DiffusionPolicy(result.backbone, row.num_steps)
    policy.save(start_folder(env_id, name), dataset)
    return {
        "config": asdict(config),
        "backbone": result.backbone.config_dict(),
        "epoch": result.best_epoch,
        "seconds": result.seconds,
        "cost": {"work": result.work.to_json()},
        "valid": evaluate(policy.scorer(dataset), dataset, "valid").means(),
        "curve": curve(result.history, "epoch"),
    }


def run_variant(env_id: str, start: str, variant: Variant) -> dict[str, Any]:
    """Fine-tune a start's model."""
    folder, dataset = start_folder(env_id, start), data_of(env_id)
    policy = DiffusionPolicy.load(folder)
    known = rewarded_validation(variant.env, dataset)  # what was rewarded must not choose the variant
    selecting = None if known is None else known.selecting
    before = evaluate(policy.scorer(dataset), dataset, "valid", users=selecting)
    config, goal = agent_config(variant), dict(variant.env)
    if policy.backbone.embedding:
        goal["checkpoint"] = str(folder.resolve())
    result, _ = fine_tuned("reinforce", policy, env_id, config, goal, SEED)
    after = evaluate(policy.scorer(dataset), dataset, "valid", users=selecting)
    paid = [row["reward/mean"] for row in result.history if "reward/mean" in row]
    paired = paired_bootstrap(before.per_user["ndcg@20"], after.per_user["ndcg@20"])
    return {
        "config": asdict(config),
        "env_kwargs": dict(variant.env),
        "iteration": result.best_iteration,
        "seconds": result.seconds,
        "validation_seconds": result.validation_seconds,
        "cost": {"work": result.work.to_json()},
        "before": before.means(),
        "after": after.means(),
        "paired_bootstrap": paired.to_json(),
        "curve": curve(result.history, "iteration"),
        "reward": [round(value, 5) for value in paid],
    }


def agent_config(variant: Variant) -> ReinforceConfig:
    """The variant's preset with its changes."""
    return replace(ReinforceConfig.preset(variant.preset), **variant.agent)


def curve(history: Sequence[Mapping[str, float]], count: str) -> list[dict[str, float]]:
    """The validation metrics of a training's history, by ``count`` (epoch or iteration)."""
    return [{name: round(row[name], 6) for name in (count, *CURVE)} for row in history if CURVE[0] in row]


# ---------------------------------------------------------------------- the cells


def start_key(env_id: str, name: str) -> str:
    """Stem of a start's file."""
    return f"{env_id}_start-{name}"


def variant_key(env_id: str, start: str, name: str) -> str:
    """Stem of a variant's file."""
    return f"{env_id}_{start}_{name}"


def plan(env_id: str, grid: Grid) -> list[Cell]:
    """The cells of a grid, each start's variants after it."""
    cells = []
    for name, start in grid.starts.items():
        key = start_key(env_id, name)
        settings: dict[str, Any] = {"env": env_id, "seed": SEED, "start": start}
        leaves = start_folder(env_id, name) / "policy.safetensors"
        data = entry(env_id).dataset or ""
        cells.append(Cell(key, run_start, (env_id, name, start), settings, data, leaves=leaves))
        for title, variant in grid.variants.items():
            if name in variant.starts:
                settings = {"env": env_id, "seed": SEED, "start": start, "variant": plain(variant)}
                cells.append(
                    Cell(
                        variant_key(env_id, name, title),
                        run_variant,
                        (env_id, name, variant),
                        settings,
                        data,
                        needs=(key,),
                    )
                )
    return cells


def plain(variant: Variant) -> dict[str, Any]:
    """What decides a variant's result: its settings without the list of starts."""
    return {name: value for name, value in asdict(variant).items() if name != "starts"}


def choose_grid(env_id: str, starts: str = "", variants: str = "") -> Grid:
    """An environment's grid, cut to the comma-separated names where some are given.

    Raises:
        ValueError: for an unknown environment or name, with a did-you-mean.
    """
    if env_id not in GRIDS:
        raise unknown_name("grid", env_id, GRIDS)
    grid = GRIDS[env_id]
    return Grid(_pick(grid.starts, starts, "start"), _pick(grid.variants, variants, "variant"))


def _pick(known: Mapping[str, Any], names: str, kind: str) -> dict[str, Any]:
    """The entries named, in the grid's order; all where none is."""
    wanted = names.split(",") if names else list(known)
    for name in wanted:
        if name not in known:
            raise unknown_name(kind, name, known)
    return {name: value for name, value in known.items() if name in wanted}


# ---------------------------------------------------------------------- the choice


@dataclass(frozen=True)
class Trial:
    """One finished variant, as the choice sees it."""

    start: str
    name: str
    gain: float
    """Relative gain in validation NDCG@20; 0 where the untouched model was kept."""
    work: float
    """Rows through the denoiser forward and backward, validation not counted."""


def choose(trials: Sequence[Trial], keep: float = KEEP) -> Trial | None:
    """The variant of least work among those that have most of the best gain.

    Args:
        trials: of one start.
        keep: share of the best gain that is most of it.

    Returns:
        None where no variant gained anything.

    Example:
        >>> long, short, weak = (Trial("s", "long", 0.2, 90), Trial("s", "short", 0.19, 30),
        ...                      Trial("s", "weak", 0.1, 5))
        >>> choose([long, short, weak]).name
        'short'
    """
    best = max((trial.gain for trial in trials), default=0.0)
    if best <= 0:
        return None
    return min((t for t in trials if t.gain >= keep * best), key=lambda trial: trial.work)


def tabulate(env_id: str, grid: Grid, folder: Path) -> tuple[list[list[str]], dict[str, Any]]:
    """The finished cells' table, and the chosen settings of each start.

    Args:
        env_id: the environment.
        grid: its starts and variants; cells without a file are left out.
        folder: where the cells' files lie.
    """
    rows, chosen = [], {}
    for name in grid.starts:
        path = folder / f"{start_key(env_id, name)}.json"
        if not path.exists():
            continue
        start = read_json(path)
        rows.append([name, f"{start['valid']['ndcg@20']:.4f}", "", "", str(start["epoch"]), _seconds(start)])
        trials, found = [], {}
        for title in grid.variants:
            path = folder / f"{variant_key(env_id, name, title)}.json"
            if not path.exists():
                continue
            told = found[title] = read_json(path)
            before = told["before"]["ndcg@20"]
            gain = told["after"]["ndcg@20"] / before - 1 if before else 0.0  # over nothing there is no gain
            trials.append(Trial(name, title, gain, told["cost"]["work"]["units"]))
            span = f"{told['paired_bootstrap']['low']:+.4f} to {told['paired_bootstrap']['high']:+.4f}"
            after = f"{told['after']['ndcg@20']:.4f}"
            rows.append(
                [
                    f"  {title}",
                    after,
                    f"{gain:+.1%}" if before else "",
                    span,
                    str(told["iteration"]),
                    _seconds(told),
                ]
            )
        best = choose(trials)
        chosen[name] = None if best is None else {
            "variant": best.name, "gain": round(best.gain, 4), "work": best.work,
            "agent": found[best.name]["config"], "env_kwargs": found[best.name]["env_kwargs"],
        }  # fmt: skip
    return rows, chosen


def _seconds(told: Mapping[str, Any]) -> str:
    return f"{told['seconds']:.0f}"


def show(env_id: str, grid: Grid, command: str) -> None:
    """Print the table and write what was chosen."""
    rows, chosen = tabulate(env_id, grid, CELLS)
    note = "\n".join(
        f"{start}: {'no variant gained' if best is None else 'chosen ' + best['variant']}"
        for start, best in chosen.items()
    )
    report(
        f"search_{env_id}", title=f"Validation search on {env_id}, seed {SEED}", command=command,
        columns=["start / variant", "valid NDCG@20", "gain", "paired 95 %", "best at", "seconds"],
        rows=rows, note=note, chosen=chosen,
        provenance=sources(read_json(path) for path in sorted(CELLS.glob(f"{env_id}_*.json"))),
    )  # fmt: skip


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="ReFiT-ML1M-v0")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--redo", action="store_true", help="measure stale cells again")
    parser.add_argument("--starts", default="", help="comma-separated; all if left out")
    parser.add_argument("--variants", default="", help="comma-separated; all if left out")
    options = parser.parse_args()
    grid = choose_grid(options.env, options.starts, options.variants)
    try:
        failed = run_cells(
            plan(options.env, grid), CELLS, workers=options.workers, tell=_tell, redo=options.redo
        )
        unfinished(plan(options.env, choose_grid(options.env)), CELLS)  # the table has no stale cells
    except CellError as error:
        sys.exit(str(error))
    show(options.env, choose_grid(options.env), f"python -m benchmarks.search_finetuning --env {options.env}")
    if failed:
        sys.exit(f"{len(failed)} cells failed; run the command again to retry")


def _tell(outcome: Outcome) -> None:
    """A line for each cell that ended."""
    told = outcome.result
    if told is None:
        print(f"FAILED {outcome.cell.key}: {outcome.error}", flush=True)
    else:
        path = " ".join(f"{row['valid/ndcg@20']:.4f}" for row in told["curve"])
        print(f"{outcome.cell.key}: {outcome.seconds:.0f} s; validation NDCG@20 {path}", flush=True)


if __name__ == "__main__":
    main()
