"""Baseline recommenders, fitted and measured by the same evaluation as policies.

Example:
    >>> from refit_env.data import load_dataset
    >>> data = load_dataset("synthetic")
    >>> scores = baseline("popularity")().fit(data, seed=0)
    >>> import torch
    >>> scores(torch.tensor([0, 1])).shape
    torch.Size([2, 400])
"""

from agents.baselines.base import Baseline, BaselineConfig, Scorer, make_config
from agents.baselines.evaluating import evaluate_baseline, fit_baseline
from agents.baselines.registry import baseline, names, names_for, register_baseline

__all__ = [
    "Baseline",
    "BaselineConfig",
    "Scorer",
    "baseline",
    "evaluate_baseline",
    "fit_baseline",
    "make_config",
    "names",
    "names_for",
    "register_baseline",
]
