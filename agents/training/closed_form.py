"""Pretraining without gradient steps: a closed-form denoiser whose settings validation chooses."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from agents.training.tensors import resolve_device
from refit_env.backbones import backbone_class, backbone_for
from refit_env.backbones.closed_form import ClosedForm
from refit_env.data.dataset import Dataset
from refit_env.data.identity import DataIdentity
from refit_env.evaluation.ranking import evaluate, selecting_metric
from refit_env.policy import DiffusionPolicy


@dataclass
class ClosedFormResult:
    """A fitted denoiser and how its settings were chosen."""

    backbone: ClosedForm
    """With the settings that validation chose, in evaluation mode."""
    tried: list[dict[str, Any]] = field(default_factory=list)
    """Each settings that was tried, in order, with its validation metrics."""
    best_value: float = float("nan")
    """The metric that chose, on the validation split."""
    seconds: float = 0.0
    """Wall-clock time of all fits and validations."""


def is_closed_form(name: str) -> bool:
    """Whether a backbone is fitted in closed form; ValueError for an unknown name."""
    return issubclass(backbone_class(name), ClosedForm)


def fit_closed_form(
    dataset: Dataset,
    name: str = "linear",
    options: Mapping[str, Any] | None = None,
    *,
    num_steps: int = 1,
    select_on: str = "ndcg@20",
    device: str | torch.device = "auto",
    callback: Callable[[Mapping[str, Any]], None] | None = None,
) -> ClosedFormResult:
    """Fit a closed-form denoiser; what ``options`` leaves open is chosen on validation.

    Settings are chosen one after the other: of a name all values are tried, of a number its neighbours on the
    grid as long as they improve. The first setting is tried again at the end if a later one has changed.

    Args:
        dataset: its train split is fitted, its valid split selects.
        name: ``"linear"`` or ``"spectral"``.
        options: fields of the configuration that are not searched.
        num_steps: T of the chain that validation runs.
        select_on: the validation metric that chooses.
        device: where validation runs.
        callback: called after each trial with its settings and metrics.

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
    metric = selecting_metric(select_on, dataset)
    search = _Search(dataset, name, dict(options or {}), num_steps, metric, resolve_device(device), callback)
    space = {
        key: values
        for key, values in cast("type[ClosedForm]", backbone_class(name)).search_space(dataset).items()
        if key not in search.chosen
    }
    begin = time.perf_counter()
    search.try_settings({key: values[0] for key, values in space.items()})
    first = next(iter(space), None)
    for key, values in space.items():
        search.improve(key, values)
    if first is not None:
        search.improve(first, space[first])
    backbone = cast("ClosedForm", search.best.backbone.eval())
    return ClosedFormResult(backbone, search.tried, search.value, time.perf_counter() - begin)


class _Search:
    """The best settings so far, and what was tried."""

    def __init__(
        self,
        dataset: Dataset,
        name: str,
        options: dict[str, Any],
        num_steps: int,
        select_on: str,
        device: torch.device,
        callback: Callable[[Mapping[str, Any]], None] | None,
    ) -> None:
        self.dataset, self.name, self.device = dataset, name, device
        self.num_steps, self.select_on, self.callback = num_steps, select_on, callback
        self.chosen = options
        self.value = float("-inf")
        self.tried: list[dict[str, Any]] = []
        self.best: DiffusionPolicy

    def try_settings(self, changes: Mapping[str, Any]) -> bool:
        """Fit and validate the chosen settings with ``changes``; whether they are the best so far."""
        settings = {**self.chosen, **changes}
        known = next((row for row in self.tried if row["settings"] == settings), None)
        if known is not None:
            return False
        backbone = cast("ClosedForm", backbone_for(self.dataset, self.name, settings))
        backbone.fit(self.dataset)
        backbone.trained_on = DataIdentity.of(self.dataset)
        policy = DiffusionPolicy(backbone.to(self.device), self.num_steps).to(self.device)
        data = self.dataset.episodes
        means = evaluate(policy.scorer(data), data, "valid", device=self.device).means()
        row = {"settings": settings, **{f"valid/{metric}": value for metric, value in means.items()}}
        self.tried.append(row)
        if self.callback is not None:
            self.callback(row)
        better = means[self.select_on] > self.value
        if better:
            self.value, self.best, self.chosen = means[self.select_on], policy, settings
        return better

    def improve(self, key: str, values: tuple[Any, ...]) -> None:
        """Choose the value of one setting, the others as they are."""
        if key == "oldest" and self.chosen.get("recency") != "rising":
            return
        if any(isinstance(value, str | bool) for value in values):
            for value in values:
                self.try_settings({key: value})
            return
        grid = sorted({*values, self.chosen[key]})
        at = grid.index(self.chosen[key])
        for step in (1, -1):
            moved = False
            while 0 <= at + step < len(grid) and self.try_settings({key: grid[at + step]}):
                at, moved = at + step, True
            if moved:
                break
