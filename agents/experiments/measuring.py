"""What a cell's record says of a model: metrics, slices, users, cost, curves, differences from its parent.

Letters: n users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.experiments.columns import METRICS
from agents.experiments.job import Job
from agents.experiments.per_user import over_users, pack
from agents.experiments.records import read_records
from agents.experiments.training import rewarded_validation
from agents.runs.profiling import Usage
from agents.training.trained import Trained
from refit_env.checkpoint import load_checkpoint, weights_digest
from refit_env.data import Dataset
from refit_env.errors import DataError
from refit_env.evaluation.ranking import Evaluation, evaluate
from refit_env.evaluation.slices import slices

POINTS = 20
"""Points of a curve of training rewards that a record keeps, at most."""


def measured(job: Job, trained: Trained, usage: Usage, dataset: Dataset) -> dict[str, Any]:
    """Evaluate a model.

    Args:
        job: of the cell.
        trained: the model and what it took.
        usage: cost of the making.
        dataset: what it ranks.

    Returns:
        What the cell's record holds besides settings and provenance.
    """
    known = rewarded_validation(job.env, dataset) if job.split == "valid" else None
    chosen = None if known is None else known.selecting  # what was rewarded must not choose
    splits = ("test",) if job.variant.refit else ("valid",) if job.split == "valid" else ("test", "valid")
    found = {s: evaluate(trained.score, dataset, s, device=job.device, users=chosen) for s in splits}
    main = found[job.split]
    out: dict[str, Any] = {"env": job.env_id, "task": dataset.task, "model": job.model_name}
    out |= {"variant": job.variant.key, "seed": job.seed, "split": job.split, "device": job.device}
    out |= {"weights": digest(job.checkpoint) if job.keeps else None}
    out |= {"start": digest(job.parent) if job.variant.parent and job.model_name else None}
    out |= {split: means_of(evaluation) for split, evaluation in found.items()}
    out |= {"users": len(main.users), "slices": _slices(main, dataset, job.split)}
    out |= {"per_user": {name: pack(main.per_user[name]) for name in job.per_user}}
    out |= {"cost": _cost(trained, usage), "env_steps": trained.env_steps, "best_at": trained.best_steps}
    out |= {"share": trained.share, "curve": trained.curve, "reward": thinned(trained.reward)}
    out |= {"reward_spread": trained.spread} if trained.spread else {}
    out |= {} if trained.budget is None else {"budget": dict(trained.budget)}
    if job.variant.parent:
        groups = dataset.groups_of(main.users) if dataset.has_rows else None  # (n,)
        out["over_parent"] = over_parent(job, out, groups)
    return out


def means_of(evaluation: Evaluation) -> dict[str, float]:
    """The metrics' means over users."""
    means = evaluation.means()
    return {name: float(means[name]) for name in METRICS}


def over_parent(
    job: Job, record: Mapping[str, Any], groups: npt.NDArray[np.int64] | None = None
) -> dict[str, dict[str, float | None]]:
    """Paired bootstrap over users of the cell's metrics less its parent's.

    Args:
        job: of the cell.
        record: what it measured.
        groups: (n,) of rows, the user or session of each: whole ones are drawn.

    Raises:
        DataError: if the parent's record is not there, or holds no values of single users.
    """
    key = job.key(job.variant.parent)
    parent = read_records(job.records).get(key)
    if parent is None:
        raise DataError(f"{job.records}: there is no record of {key}, from which {job.key()} begins")
    after = dict(record) | {"key": job.key()}
    return {name: over_users(parent, after, name, groups) for name in job.per_user}


def digest(checkpoint: Path) -> str:
    """SHA-256 of a checkpoint's weights, whatever else its file states of them."""
    return weights_digest(load_checkpoint(checkpoint)[0])


def thinned(curve: Mapping[str, Sequence[float]], points: int = POINTS) -> dict[str, list[float]]:
    """A curve with at most ``points`` of its points, the first and the last among them.

    Example:
        >>> thinned({"steps": [0.0, 1.0, 2.0, 3.0, 4.0]}, 3)
        {'steps': [0.0, 2.0, 4.0]}
    """

    def keep(values: Sequence[float]) -> list[float]:
        if len(values) <= points:
            return list(values)
        return [values[round(n * (len(values) - 1) / (points - 1))] for n in range(points)]

    return {name: keep(values) for name, values in curve.items()}


def _cost(trained: Trained, usage: Usage) -> dict[str, Any]:
    """Time, memory and work."""
    return usage.to_json() | {
        "training_seconds": round(trained.training_seconds, 2),
        "validation_seconds": round(trained.validation_seconds, 2),
        "work": None if trained.work is None else trained.work.to_json(),
    }


def _slices(evaluation: Evaluation, dataset: Dataset, split: str) -> dict[str, dict[str, float]]:
    """The slices' sizes and means."""
    return {
        name: {"users": float(len(part.users))} | {m: part.means()[m] for m in METRICS if part.means()}
        for name, part in slices(evaluation, dataset, split).items()
    }
