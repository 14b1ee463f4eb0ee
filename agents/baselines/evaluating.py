"""Fits baselines and measures them by the evaluation of policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

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
    joined = dataset.learning_validation()
    return kind(config).fit(joined, seed, device), joined


def evaluate_baseline(
    data: Dataset | str,
    name: str,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    split: str = "test",
    *,
    refit: bool = False,
    device: torch.device | str = "cpu",
    names: Sequence[str] = (),
) -> tuple[Evaluation, dict[str, Any]]:
    """Fit a baseline to a data set and measure it as ``refit evaluate`` measures a policy.

    Args:
        data: the data set, or an environment id for its data set, such as ``"ReFiT-ML1M-v0"``.
        name: the baseline's.
        settings: fields of its settings that differ from the defaults.
        seed: of its random numbers.
        split: ``"valid"`` or ``"test"``.
        refit: see ``fit_baseline``; for ``"test"`` alone.
        device: of the training.
        names: further metrics beyond accuracy.

    Returns:
        The evaluation, user by user, and a JSON-plain report: what was fitted, its means, what it cost.

    Raises:
        ValueError: for an unknown environment, name or setting, a data set that the baseline is not for, or
            if validation is to measure a model that was fitted to it.

    Example:
        >>> _, report = evaluate_baseline("ReFiT-Synthetic-v0", "ease", {"l2": 100.0})
        >>> report["baseline"], report["metrics"]["ndcg@20"] > 0.2
        ('ease', True)
    """
    if refit and split != "test":
        raise ValueError(f"refit=True fits the validation items too: measure it on 'test', not on {split!r}")
    env = {"env": data} if isinstance(data, str) else {}
    dataset = _dataset_of(data) if isinstance(data, str) else data
    with measure() as fitting:
        scorer, fitted = fit_baseline(dataset, name, settings, seed, refit=refit, device=device)
    with measure() as scoring:
        result = evaluate(scorer, fitted, split, device=device)
    config = make_config(baseline(name).config_class, name, settings or {})
    return result, env | {
        "dataset": dataset.name,
        "baseline": name,
        "settings": asdict(config),
        "chosen": dict(scorer.chosen),
        "seed": seed,
        "refit": refit,
        "split": split,
        "users": len(result.users),
        "metrics": {key: float(value) for key, value in means_of(result, fitted, split, names).items()},
        "cost": {"fit": fitting.to_json(), "score": scoring.to_json()},
    }


def _dataset_of(env_id: str) -> Dataset:
    """Return the data set of an environment id."""
    found = entry(env_id).dataset
    if found is None:
        raise ValueError(f"{env_id} has no fixed data set: pass your data set")
    return load_dataset(found)
