"""Pretraining without gradient steps: a closed-form denoiser whose settings validation chooses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

import torch

from agents.training.closed_form_search import OutOfTime, Trials, search_settings
from agents.training.tensors import resolve_device
from refit_env.backbones import backbone_class, backbone_config
from refit_env.backbones.base import check_task
from refit_env.backbones.closed_form import ClosedForm
from refit_env.backbones.hybrid import BASES, HybridConfig, HybridDenoiser
from refit_env.backbones.stacked import StackedConfig, StackedDenoiser
from refit_env.data.dataset import Dataset
from refit_env.evaluation.ranking import selecting_rule

BUILT_ON = (HybridDenoiser, StackedDenoiser)
"""Backbones that are a closed form and a network."""


@dataclass
class ClosedFormResult:
    """A fitted denoiser and how its settings were chosen."""

    backbone: ClosedForm
    """With the settings that validation chose, in evaluation mode."""
    tried: list[dict[str, Any]] = field(default_factory=list)
    """Each settings that was tried, in order, with its validation metrics."""
    best_value: float = float("nan")
    """The metric that chose, on the validation split."""
    best_trial: int = 1
    """Number of the chosen settings among ``tried``, from 1."""
    seconds: float = 0.0
    """Wall-clock time of all fits and validations."""


def is_closed_form(name: str) -> bool:
    """Return whether a backbone is fitted in closed form; ValueError for an unknown name."""
    return issubclass(backbone_class(name), ClosedForm)


def fit_closed_form(
    dataset: Dataset,
    name: str = "linear",
    options: Mapping[str, Any] | None = None,
    *,
    num_steps: int = 1,
    select: str = "ndcg@20",
    device: str | torch.device = "auto",
    callback: Callable[[Mapping[str, Any]], None] | None = None,
    tried: Iterable[Mapping[str, Any]] = (),
    out_of_time: OutOfTime | None = None,
    starts: Sequence[Mapping[str, Any]] = (),
) -> ClosedFormResult:
    """Fit a closed-form denoiser; what ``options`` leaves open is chosen on validation.

    Settings are chosen one after the other: of a name all values are tried, of a number its neighbours on the
    grid as long as they improve. This is repeated until a round improves nothing. A change improves if its
    gain is larger than the standard error of the difference, paired over the users of validation. The
    regression and the neighbourhood are first searched alone; the share of each in their sum is the best of a
    grid.

    Args:
        dataset: its train split is fitted, its valid split selects.
        name: ``"linear"`` or ``"spectral"``.
        options: fields of the configuration that are not searched.
        num_steps: T of the chain that validation runs.
        select: the rule by which validation chooses; its ``start`` is the first trial.
        device: where validation runs.
        callback: called after each trial with its settings and metrics.
        tried: rows of ``ClosedFormResult.tried`` of an earlier call, which are not tried again.
        out_of_time: called before each trial but the first with a share of the time; returns whether that
            share has passed.
        starts: settings of the neighbourhood, or of the factorisation, from which its search begins, too.

    Raises:
        ValueError: for a backbone without a closed form, a wrong option, or an unknown metric.

    Example:
        >>> from refit_env.data import load_dataset
        >>> result = fit_closed_form(load_dataset("synthetic"), "linear", {"score_power": 0.0}, device="cpu")
        >>> result.best_value > 0.2
        True
    """
    if not is_closed_form(name):
        raise ValueError(f"backbone {name!r} has no closed form; train it with 'pretrain'")
    rule = selecting_rule(select, dataset)
    trials = Trials(dataset, name, num_steps, rule, resolve_device(device), callback, list(tried))
    begin = time.perf_counter()
    chosen = search_settings(trials, dict(options or {}), out_of_time, starts)
    policy = trials.policy_of(chosen)
    backbone = cast("ClosedForm", policy.backbone.eval())
    trial = [row["settings"] for row in trials.rows].index(chosen)
    value = float(trials.rows[trial][f"valid/{rule.metric}"])
    return ClosedFormResult(backbone, trials.rows, value, trial + 1, time.perf_counter() - begin)


def base_settings(
    dataset: Dataset,
    name: str,
    options: Mapping[str, Any],
    *,
    num_steps: int = 1,
    select: str,
    device: str,
) -> dict[str, Any]:
    """Return the settings of a closed form within a backbone: ``options``, and what validation chose.

    Args:
        dataset: its train split is fitted, its valid split selects.
        name: of a class in ``BUILT_ON``.
        options: fields of its configuration; those of the closed form are not searched.
        num_steps: T of the chain that validation runs.
        select: the rule by which validation chooses; its ``start`` is the first trial.
        device: where validation runs.

    Raises:
        ValueError: for a wrong option, an unknown metric, or data that the base does not support.
    """
    config: HybridConfig | StackedConfig = backbone_config(name, dataset.name, options)
    check_task(backbone_class(name), dataset)
    if isinstance(config, StackedConfig):
        StackedDenoiser.divided(dataset, config)  # refuses too few rows before the search
    known = {f.name for f in fields(BASES[config.base].config_class)}
    given = {key: value for key, value in options.items() if key in known and (key, value) != ("l2", 0)}
    found = fit_closed_form(dataset, config.base, given, num_steps=num_steps, select=select, device=device)
    return found.backbone.config_dict()
