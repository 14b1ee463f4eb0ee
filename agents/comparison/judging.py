"""What a cell's file says of a model: metrics, differences user by user, a name of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.stats import paired_bootstraps
from refit_env.checkpoint import load_checkpoint
from refit_env.evaluation import Evaluation

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


def fingerprint(checkpoint: Path) -> str:
    """SHA-256 of a checkpoint's weights, whatever else its file tells of them."""
    weights, _ = load_checkpoint(checkpoint)
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
