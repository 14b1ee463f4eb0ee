"""Fits baselines and measures them by the evaluation of policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from agents.baselines.base import Scorer, make_config
from agents.baselines.registry import baseline
from agents.runs.profiling import measure
from refit_env.data.dataset import Dataset
from refit_env.data.home import load_dataset
from refit_env.evaluation.beyond_accuracy import means_of
from refit_env.evaluation.ranking import Evaluation, evaluate
from refit_env.registration import entry


def fit_baseline(
    dataset: Dataset,
    name: str,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    *,
    refit: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[Scorer, Dataset]:
    """Fit a baseline.

    Args:
        dataset: the data set.
        name: the baseline's.
        settings: fields of its settings that differ from the defaults.
        seed: of its random numbers.
        refit: fit to the train and validation items together; both are then the input at test, as in the
            tables of LightGCN and others. A baseline that stops early is fitted to the train items first, and
            then for as many epochs as validation chose.
        device: of the training.

    Returns:
        The scores, and the data set that they are for: with ``refit``, its train split holds the
        validation items.

    Raises:
        ValueError: for an unknown name or setting, or a data set that the baseline is not for.
    """
    kind = baseline(name)
    config = make_config(kind.config_class, name, settings or {})
    if not refit:
        return kind(config).fit(dataset, seed, device), dataset
    if kind.chooses:
        config = replace(config, **kind(config).fit(dataset, seed, device).chosen)
    joined = dataset.learning_validation_of(np.arange(dataset.num_users))
    return kind(config).fit(joined, seed, device), joined


def evaluate_baseline(
    env_id: str,
    name: str,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    split: str = "test",
    *,
    refit: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[Evaluation, dict[str, Any]]:
    """Fit a baseline to an environment's data set and measure it as ``refit evaluate`` measures a policy.

    Args:
        env_id: for example ``"ReFiT-ML1M-v0"``.
        name: the baseline's.
        settings: fields of its settings that differ from the defaults.
        seed: of its random numbers.
        split: ``"valid"`` or ``"test"``.
        refit: see ``fit_baseline``; for ``"test"`` alone.
        device: of the training.

    Returns:
        The evaluation, user by user, and a JSON-plain report: what was fitted, its means, what it cost.

    Raises:
        ValueError: for an unknown environment, name or setting, or a data set that the baseline is not for.

    Example:
        >>> _, report = evaluate_baseline("ReFiT-Synthetic-v0", "ease", {"l2": 100.0})
        >>> report["baseline"], report["metrics"]["ndcg@20"] > 0.2
        ('ease', True)
    """
    data = entry(env_id).dataset
    if data is None:
        raise ValueError(f"{env_id} has no fixed data set; use measure_baseline with your data set")
    result, report = measure_baseline(
        load_dataset(data), name, settings, seed, split, refit=refit, device=device
    )
    return result, {"env": env_id} | report


def measure_baseline(
    dataset: Dataset,
    name: str,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    split: str = "test",
    *,
    refit: bool = False,
    device: torch.device | str = "cpu",
    names: Sequence[str] = (),
) -> tuple[Evaluation, dict[str, Any]]:
    """``evaluate_baseline`` for a data set in memory; ``names`` are further metrics beyond accuracy.

    Raises:
        ValueError: as ``evaluate_baseline``, or if validation is to measure a model that was fitted to it.
    """
    if refit and split != "test":
        raise ValueError(f"refit=True fits the validation items too: measure it on 'test', not on {split!r}")
    with measure() as fitting:
        scorer, data = fit_baseline(dataset, name, settings, seed, refit=refit, device=device)
    with measure() as scoring:
        result = evaluate(scorer, data, split, device=device)
    config = make_config(baseline(name).config_class, name, settings or {})
    return result, {
        "dataset": dataset.name,
        "baseline": name,
        "settings": asdict(config),
        "chosen": dict(scorer.chosen),
        "seed": seed,
        "refit": refit,
        "split": split,
        "users": len(result.users),
        "metrics": {key: float(value) for key, value in means_of(result, data, split, names).items()},
        "cost": {"fit": fitting.to_json(), "score": scoring.to_json()},
    }
