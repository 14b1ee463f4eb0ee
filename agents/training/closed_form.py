"""Pretraining without gradient steps: a closed-form denoiser whose settings validation chooses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from agents.training.settings_search import SettingsSearch
from agents.training.tensors import resolve_device
from refit_env.backbones import backbone_class, backbone_config, backbone_for
from refit_env.backbones.closed_form import ClosedForm
from refit_env.backbones.hybrid import BASES, HybridConfig
from refit_env.data.dataset import Dataset
from refit_env.data.identity import DataIdentity
from refit_env.evaluation.beyond_accuracy import means_of
from refit_env.evaluation.ranking import evaluate, selecting_rule
from refit_env.evaluation.selection import Rule
from refit_env.policy import DiffusionPolicy

NEEDS = {
    "oldest": ("recency", "rising"),
    "decay": ("recency", "reciprocal"),
    "pair_power": ("targets", "future"),
    "window": ("targets", "future"),
    **dict.fromkeys(("shrink", "balance", "row_power", "pairs"), ("neighborhood", bool)),
}
"""Settings that have an effect only with a value of another one, or with any but 0."""


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
    out_of_time: Callable[[], bool] | None = None,
) -> ClosedFormResult:
    """Fit a closed-form denoiser; what ``options`` leaves open is chosen on validation.

    Settings are chosen one after the other: of a name all values are tried, of a number its neighbours on the
    grid as long as they improve. This is repeated until a round improves nothing. A change improves if its
    gain is larger than the standard error of the difference, paired over the users of validation.

    Args:
        dataset: its train split is fitted, its valid split selects.
        name: ``"linear"`` or ``"spectral"``.
        options: fields of the configuration that are not searched.
        num_steps: T of the chain that validation runs.
        select: the rule by which validation chooses; its ``start`` is the first trial.
        device: where validation runs.
        callback: called after each trial with its settings and metrics.
        tried: rows of ``ClosedFormResult.tried`` of an earlier call, which are not tried again.
        out_of_time: called before each trial but the first; once it returns True, the search ends.

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
    trials = _Trials(dataset, name, num_steps, rule, resolve_device(device), callback, list(tried))
    space = cast("type[ClosedForm]", backbone_class(name)).search_space(dataset)
    begin = time.perf_counter()
    search = SettingsSearch(trials.value, dict(options or {}), out_of_time, trials.error_of)
    search.run(space, NEEDS)
    policy = trials.policy_of(search.chosen)
    backbone = cast("ClosedForm", policy.backbone.eval())
    trial = [row["settings"] for row in trials.rows].index(search.chosen)
    value = float(trials.rows[trial][f"valid/{rule.metric}"])
    return ClosedFormResult(backbone, trials.rows, value, trial + 1, time.perf_counter() - begin)


def hybrid_settings(
    dataset: Dataset, options: Mapping[str, Any], *, num_steps: int = 1, select: str, device: str
) -> dict[str, Any]:
    """Return the settings of a hybrid's base: ``options``, and what validation chose of the others.

    Args:
        dataset: its train split is fitted, its valid split selects.
        options: fields of ``HybridConfig``; those of the base are not searched.
        num_steps: T of the chain that validation runs.
        select: the rule by which validation chooses; its ``start`` is the first trial.
        device: where validation runs.

    Raises:
        ValueError: for a wrong option, an unknown metric, or data that the base does not support.
    """
    config: HybridConfig = backbone_config("hybrid", dataset.name, options)
    known = {f.name for f in fields(BASES[config.base].config_class)}
    given = {key: value for key, value in options.items() if key in known and (key, value) != ("l2", 0)}
    found = fit_closed_form(dataset, config.base, given, num_steps=num_steps, select=select, device=device)
    return found.backbone.config_dict()


def fitted_policy(
    dataset: Dataset, name: str, settings: Mapping[str, Any], num_steps: int, device: torch.device
) -> DiffusionPolicy:
    """Return the policy of a closed-form denoiser, fitted with given settings.

    Args:
        dataset: its train split is fitted.
        name: of the backbone.
        settings: fields of its configuration; the others are the defaults.
        num_steps: T of the chain.
        device: of the policy.
    """
    backbone = cast("ClosedForm", backbone_for(dataset, name, settings))
    backbone.to(device).fit(dataset)
    backbone.trained_on = DataIdentity.of(dataset)
    return DiffusionPolicy(backbone, num_steps).to(device).eval()


def row_score(rule: Rule, row: Mapping[str, Any], first: Mapping[str, Any]) -> float:
    """Return the score by a rule of a row of ``ClosedFormResult.tried``, of which ``first`` is the first."""
    means, start = ({name: float(r[f"valid/{name}"]) for name in rule.names} for r in (row, first))
    return rule.score(means, start)


class _Trials:
    """The settings that were tried, with their metrics, and the policy of the best ones fitted here."""

    def __init__(
        self,
        dataset: Dataset,
        name: str,
        num_steps: int,
        rule: Rule,
        device: torch.device,
        callback: Callable[[Mapping[str, Any]], None] | None,
        rows: list[Mapping[str, Any]],
    ) -> None:
        self.dataset, self.name, self.device = dataset, name, device
        self.num_steps, self.rule, self.callback = num_steps, rule, callback
        self.rows = [dict(row) for row in rows]
        self._per_user: list[tuple[dict[str, Any], npt.NDArray[np.float64] | None]] = []
        self._best: tuple[float, dict[str, Any], DiffusionPolicy] | None = None

    def value(self, settings: dict[str, Any]) -> float:
        """Return the score of ``settings`` by the rule; they are fitted unless they were tried before."""
        known = next((row for row in self.rows if row["settings"] == settings), None)
        if known is not None:
            return self.score(known)
        means = self._measure(settings)
        row = {"settings": settings, **{f"valid/{metric}": value for metric, value in means.items()}}
        self.rows.append(row)
        if self.callback is not None:
            self.callback(row)
        return self.score(row)

    def error_of(self, settings: dict[str, Any], other: dict[str, Any]) -> float:
        """Return the standard error of the mean difference of two settings over the users of validation.

        It is 0 for a metric that is no mean over users.
        """
        values, others = self._values(settings), self._values(other)  # (n,) each
        if values is None or others is None:
            return 0.0
        return float((values - others).std() / values.size**0.5)

    def score(self, row: Mapping[str, Any]) -> float:
        """Return the score of a row of ``rows``; the start of a rule's conditions is the first one."""
        return row_score(self.rule, row, self.rows[0])

    def policy_of(self, settings: dict[str, Any]) -> DiffusionPolicy:
        """Return the fitted policy of ``settings``; fitted again where they were tried in an earlier call."""
        if self._best is not None and self._best[1] == settings:
            return self._best[2]
        return self._fitted(settings)

    def _measure(self, settings: dict[str, Any]) -> dict[str, float]:
        """Fit, keep the metric of each user and the policy if it is the best, and return the means."""
        policy, data = self._fitted(settings), self.dataset.episodes
        found = evaluate(policy.scorer(data), data, "valid", device=self.device)
        self._per_user.append((settings, found.per_user.get(self.rule.metric)))
        means = means_of(found, data, "valid", self.rule.names)
        row = {f"valid/{metric}": value for metric, value in means.items()}
        value = row_score(self.rule, row, self.rows[0] if self.rows else row)
        if self._best is None or value > self._best[0]:
            self._best = value, settings, policy
        return means

    def _values(self, settings: dict[str, Any]) -> npt.NDArray[np.float64] | None:
        """Return the metric of each user (n,), or None; of settings of an earlier call, measured again."""
        if not any(known == settings for known, _ in self._per_user):
            self._measure(settings)
        return next(values for known, values in self._per_user if known == settings)

    def _fitted(self, settings: dict[str, Any]) -> DiffusionPolicy:
        """Fit."""
        return fitted_policy(self.dataset, self.name, settings, self.num_steps, self.device)
