"""What a cell's file says of a model: metrics, differences user by user, a name of its weights."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.experiments.records import Cell, read_cell
from agents.runs.profiling import Usage
from agents.training.trained import Trained
from refit_env.checkpoint import load_checkpoint, weights_digest
from refit_env.data import Dataset
from refit_env.evaluation.ranking import Evaluation, evaluate
from refit_env.evaluation.statistics import paired_bootstraps
from refit_env.policy import DiffusionPolicy

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
"""What tables show."""
CELLS, CHECKPOINTS = "cells", "runs"
"""Folders of a comparison."""


def means_of(evaluation: Evaluation) -> dict[str, float]:
    """The metrics' means over users."""
    means = evaluation.means()
    return {name: float(means[name]) for name in METRICS}


def per_user(evaluation: Evaluation) -> dict[str, npt.NDArray[np.float64]]:
    """The metrics user by user."""
    return {name: evaluation.per_user[name] for name in METRICS}


def differences_over(before: Evaluation, after: Evaluation) -> dict[str, Mapping[str, Any]]:
    """Paired bootstrap over users of ``after - before``, a metric each, JSON-plain."""
    table = paired_bootstraps(per_user(before), per_user(after))
    return {name: table[name].to_json() for name in METRICS}


def read_results(
    cells: Sequence[Cell],
    out: Path,
    base: str,
    whose: Callable[[Mapping[str, Any]], Hashable],
    *,
    stale: bool = False,
) -> dict[str, dict[str, Any]]:
    """What finished cells hold, by key, in the order of the plan.

    Args:
        cells: of the comparison.
        out: its folder.
        base: the row whose checkpoint the others begin from.
        whose: of a result, the name of that checkpoint.
        stale: whether stale cells are read, too.

    Raises:
        CellError: if a cell is stale.
        ValueError: if a row began from another checkpoint than the base row.
    """
    found = {cell.key: read_cell(out / CELLS, cell, stale=stale) for cell in cells}
    results = {key: result for key, result in found.items() if result is not None}
    starts = {whose(r): r["checkpoint"] for r in results.values() if r["row"] == base}
    for key, result in results.items():
        if result["checkpoint"] != starts.get(whose(result), result["checkpoint"]):
            raise ValueError(
                f"{out / CELLS / key}.json began from another checkpoint than the row {base!r}: delete it, "
                "and it is measured again"
            )
    return results


def judge(
    trained: Trained, usage: Usage, checkpoint: Path, dataset: Dataset, device: str = "cpu"
) -> tuple[Evaluation, dict[str, Any]]:
    """Evaluate a model.

    Args:
        trained: the model and what it took.
        usage: cost of the making.
        checkpoint: the pretrained model that it began from, or is.
        dataset: what it ranks.
        device: where it scores.

    Returns:
        Its evaluation on test, and what its cell's file says of it.
    """
    test, valid = (evaluate(trained.score, dataset, split, device=device) for split in ("test", "valid"))
    taken = {
        "training_seconds": round(trained.training_seconds, 2),
        "validation_seconds": round(trained.validation_seconds, 2),
        "work": None if trained.work is None else trained.work.to_json(),
    }
    return test, {
        "checkpoint": fingerprint(checkpoint),
        "test": means_of(test),
        "valid": means_of(valid),
        "best_steps": trained.best_steps,
        "share": trained.share,
        "cost": usage.to_json() | taken,
        "curve": trained.curve,
        "reward": trained.reward,
    } | ({} if trained.budget is None else {"budget": trained.budget})


def differences_from(
    checkpoint: Path, dataset: Dataset, test: Evaluation, device: str = "cpu"
) -> dict[str, Mapping[str, Any]]:
    """``differences_over`` the pretrained model in ``checkpoint``, on test."""
    base = DiffusionPolicy.load(checkpoint, device)
    return differences_over(evaluate(base.scorer(dataset), dataset, "test", device=device), test)


def fingerprint(checkpoint: Path) -> str:
    """SHA-256 of a checkpoint's weights, whatever else its file tells of them."""
    return weights_digest(load_checkpoint(checkpoint)[0])
