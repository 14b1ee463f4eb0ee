"""The trials of a closed form's settings: the regression, the neighbourhood, then their sum.

Both are linear models with different errors, and their sum is often better than either; but the settings of
a good neighbourhood are far from those with which a small share of it improves the regression. So each is
searched alone before their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from agents.training.settings_search import SettingsSearch
from refit_env.backbones import backbone_class, backbone_for
from refit_env.backbones.closed_form import ClosedForm
from refit_env.data.dataset import Dataset
from refit_env.data.identity import DataIdentity
from refit_env.evaluation.beyond_accuracy import means_of
from refit_env.evaluation.ranking import evaluate, evaluated_groups
from refit_env.evaluation.selection import Rule
from refit_env.evaluation.statistics import Gain
from refit_env.policy import DiffusionPolicy

SHARE = "neighborhood"
"""The share of the neighbourhood in the sum."""
OF_NEAR = ("reach", "gap_power")
"""Settings of the neighbourhood that counts near items."""
OF_NEIGHBORHOOD = (
    *("count_power", "row_power", "balance", "pairs", "shrink", "neighbors", "nearest_of"),
    *OF_NEAR,
)
"""Settings of the neighbourhood alone."""
OF_SCORES = ("friends", "regression", "factorization", "places", "score_power")
"""Settings that the regression and the neighbourhood do not share: the latter is searched without them."""
COSTLY = ("item_power", "user_power")
"""Settings whose values need another singular value decomposition, which are searched last."""
NEEDS = {
    "oldest": ("recency", "rising"),
    "decay": ("recency", "reciprocal"),
    "pair_power": ("targets", "future"),
    "window": ("targets", "future"),
    "regression_l2": ("regression", bool),
    "regressors": ("regression", bool),
    "places_scale": ("places", bool),
    **dict.fromkeys(("factorization_l2", "unobserved", "embedding"), ("factorization", bool)),
    **dict.fromkeys(OF_NEIGHBORHOOD, (SHARE, bool)),
    **dict.fromkeys(OF_NEAR, ("pairs", "near")),
}
"""Settings that have an effect only with a value of another one, or with any but 0."""
FACTORIZATION, FACTORIZATION_L2 = "factorization", "factorization_l2"
"""The share of the factorisation in the sum, and a setting of it."""
TIMELESS = {"recency": "none", "targets": "row"}
"""Settings without the order of time: those of EASE and of the graph filters."""
REGRESSION, NEIGHBORHOOD = 0.4, 0.7
"""Shares of the time after which the searches of the regression and of the neighbourhood end."""
LATER = 0.3
"""The same of the neighbourhood in a later call, whose starts were searched by others."""

OutOfTime = Callable[[float], bool]
"""Returns whether a share of the time has passed."""


def search_settings(
    trials: Trials,
    options: Mapping[str, Any],
    out_of_time: OutOfTime | None = None,
    starts: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the settings that validation chooses.

    A call with trials of an earlier one and with ``starts`` begins with these starts: what the earlier one
    left of the regression and of the neighbourhood alone is not searched.

    Args:
        trials: fits and validates.
        options: settings that are not searched.
        out_of_time: called before each trial but the first.
        starts: settings of the neighbourhood, or of the factorisation (with ``FACTORIZATION_L2``), from which
            its search begins, too.
    """
    over = out_of_time if out_of_time is not None else lambda share: False
    later = bool(starts and trials.rows)
    space = dict(cast("type[ClosedForm]", backbone_class(trials.name)).search_space(trials.dataset))
    space |= _begun_without_time(trials, options, space, over)
    start, fixed = dict(options), dict(options)
    if SHARE in space and SHARE not in options:
        near = [settings for settings in starts if FACTORIZATION_L2 not in settings]
        start = _of_parts(trials, options, space, over, near, later=later)
        space = {
            name: (start[name], *values) for name, values in space.items() if name not in OF_NEIGHBORHOOD
        }
        space[SHARE] = tuple(share for share in space[SHARE] if bool(share) == bool(start[SHARE]))
        fixed = {name: start[name] for name in OF_NEIGHBORHOOD if name in start} | fixed
    # With other settings of its own no share of the factorisation may help.
    tries = [
        {**settings, FACTORIZATION: share} | fixed
        for settings in starts
        if FACTORIZATION_L2 in settings
        for share in space.get(FACTORIZATION, ())
        if share and FACTORIZATION not in options
    ]
    search = SettingsSearch(trials.value, fixed, partial(over, 1.0), trials.error_of, trials.known)
    search.run(space, NEEDS, tries)
    return _unless_clearly_worse(trials, search.chosen, options)


def _unless_clearly_worse(
    trials: Trials, chosen: dict[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the chosen settings, or the best that were tried where these are better by more than the error.

    A search that time ended may not have come back to what an earlier one had found.
    """
    tried = [row["settings"] for row in trials.rows if options.items() <= row["settings"].items()]
    best = max(tried, key=trials.value, default=chosen)
    gain = trials.value(best) - trials.value(chosen)
    return dict(best) if gain > 0 and gain > trials.error_of(best, chosen) else chosen


def _begun_without_time(
    trials: Trials, options: Mapping[str, Any], space: Mapping[str, tuple[Any, ...]], over: OutOfTime
) -> dict[str, tuple[Any, ...]]:
    """Return the settings of time, their timeless value first if the regression is better with it.

    One setting at a time would not find it: the weights of rows and the targets are good or bad together.
    """
    names = [name for name, value in TIMELESS.items() if name not in options and value in space.get(name, ())]
    usual = {name: values[0] for name, values in space.items()} | ({SHARE: 0.0} if SHARE in space else {})
    usual |= dict(options)
    without = usual | {name: TIMELESS[name] for name in names}
    if usual == without or (over(REGRESSION) and not trials.known(without)):
        return {}
    if trials.value(usual) >= trials.value(without):
        return {}
    return {name: (TIMELESS[name], *(v for v in space[name] if v != TIMELESS[name])) for name in names}


def _of_parts(
    trials: Trials,
    options: Mapping[str, Any],
    space: Mapping[str, tuple[Any, ...]],
    over: OutOfTime,
    starts: Sequence[Mapping[str, Any]],
    *,
    later: bool,
) -> dict[str, Any]:
    """Search the regression and the neighbourhood alone; return the settings of the best sum.

    In a ``later`` call the regression is that of the trials that are known.
    """
    own = {name: values for name, values in space.items() if name in OF_NEIGHBORHOOD and name not in options}
    fixed = {*own, SHARE, *COSTLY}
    rest = {name: values for name, values in space.items() if name not in fixed}
    given = (
        {name: values[0] for name, values in space.items() if name in fixed} | dict(options) | {SHARE: 0.0}
    )
    until = 0.0 if later else REGRESSION
    search = SettingsSearch(trials.value, given, partial(over, until), trials.error_of, trials.known)
    search.run(rest, NEEDS)
    regression = search.chosen
    alone = {name: value for name, value in regression.items() if name not in own}
    alone |= {name: 0.0 for name in OF_SCORES if name in alone and name not in options} | {SHARE: 1.0}
    found = [(search.value, regression)]
    for start in ({}, *starts):
        first = {name: (start.get(name, values[0]), *values) for name, values in own.items()}
        settings = alone | {name: values[0] for name, values in first.items()}
        late = over(NEIGHBORHOOD) and not trials.known(settings)
        if late or (len(found) > 1 and trials.value(settings) <= found[-1][0]):
            continue
        until = NEIGHBORHOOD if not later else LATER if start else 0.0
        near = SettingsSearch(trials.value, alone, partial(over, until), known=trials.known)
        near.run(first, NEEDS)
        found.append((near.value, near.chosen))
    if len(found) > 1:
        both = regression | {name: found[-1][1][name] for name in own}
        for share in sorted(set(space[SHARE]) - {0.0, 1.0}, key=lambda share: abs(share - 0.5)):
            settings = both | {SHARE: share}
            if trials.known(settings) or not over(1.0):
                found.append((trials.value(settings), settings))
    return max(found, key=lambda pair: pair[0])[1]


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


class Trials:
    """The settings that were tried, with their metrics, and the policy of the best ones fitted here.

    Attributes:
        dataset: the data set.
        name: the backbone.
        rows: settings and metrics, in order.
    """

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
        """Prepare; the arguments are those of ``fit_closed_form``, ``rows`` its ``tried``."""
        self.dataset, self.name, self.device = dataset, name, device
        self.num_steps, self.rule, self.callback = num_steps, rule, callback
        self.rows = [dict(row) for row in rows]
        self._per_user: list[tuple[dict[str, Any], npt.NDArray[np.float64] | None]] = []
        self._best: tuple[float, dict[str, Any], DiffusionPolicy] | None = None

    @cached_property
    def groups(self) -> npt.NDArray[np.int64]:
        """The groups (n,) of the users of validation: rows with one number are not independent."""
        return evaluated_groups(self.dataset, "valid")

    def known(self, settings: dict[str, Any]) -> bool:
        """Return whether ``settings`` were tried before."""
        return self._row_of(settings) is not None

    def value(self, settings: dict[str, Any]) -> float:
        """Return the score of ``settings`` by the rule; they are fitted unless they were tried before."""
        known = self._row_of(settings)
        if known is not None:
            return self.score(known)
        row = self._measure(settings)
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
        return Gain.of(others, values, groups=self.groups).error

    def score(self, row: Mapping[str, Any]) -> float:
        """Return the score of a row of ``rows``; the start of a rule's conditions is the first one."""
        return row_score(self.rule, row, self.rows[0])

    def policy_of(self, settings: dict[str, Any]) -> DiffusionPolicy:
        """Return the fitted policy of ``settings``; fitted again where they were tried in an earlier call."""
        if self._best is not None and self._best[1] == settings:
            return self._best[2]
        return self._fitted(settings)

    def _row_of(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """Return the row of settings that were tried before."""
        return next((row for row in self.rows if row["settings"] == settings), None)

    def _measure(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Fit, keep the metric of each user and the policy if it is the best, and return the row."""
        policy, data = self._fitted(settings), self.dataset.episodes
        found = evaluate(policy.scorer(data), data, "valid", device=self.device)
        self._per_user.append((settings, found.per_user.get(self.rule.metric)))
        means = means_of(found, data, "valid", self.rule.names)
        row = {"settings": settings, **{f"valid/{metric}": value for metric, value in means.items()}}
        value = row_score(self.rule, row, self.rows[0] if self.rows else row)
        if self._best is None or value > self._best[0]:
            self._best = value, settings, policy
        return row

    def _values(self, settings: dict[str, Any]) -> npt.NDArray[np.float64] | None:
        """Return the metric of each user (n,), or None; of settings of an earlier call, measured again."""
        if not any(known == settings for known, _ in self._per_user):
            self._measure(settings)
        return next(values for known, values in self._per_user if known == settings)

    def _fitted(self, settings: dict[str, Any]) -> DiffusionPolicy:
        """Fit."""
        return fitted_policy(self.dataset, self.name, settings, self.num_steps, self.device)
