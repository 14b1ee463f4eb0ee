"""Proposals by Optuna: after the first points, a tree-structured Parzen estimator proposes the next trials.

The study is rebuilt from the trials on disk before each proposal, and the sampler's seed is the study's and
the trial's number, so that a continued study proposes the same as an uninterrupted one, given the same
values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from agents.baselines.tuning import load_optuna
from agents.tuning.inspection import DataFacts
from agents.tuning.space import Params, as_drawn, first_points, suggest
from agents.tuning.trials import Trial

RANDOM = 4
"""Trials that are drawn at random before the estimator is fitted to values."""


def propose(
    facts: DataFacts, starts: Sequence[str], trials: Sequence[Trial], seed: int, more: Sequence[str] = ()
) -> Params:
    """Return the parameters of the next trial.

    Args:
        facts: facts of the data.
        starts: backbones to start from, the best first.
        trials: the fine-tunings that were tried, from these starts or others.
        seed: seed of the draws.
        more: further rewards to try.
    """
    points = first_points(facts, starts, more)
    if len(trials) < len(points):
        return points[len(trials)]
    optuna = load_optuna()
    sampler = optuna.samplers.TPESampler(seed=(seed * 10_007 + len(trials)) % 2**32, n_startup_trials=RANDOM)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in trials:
        params = trial.notes["params"]
        if params["start"] in starts:
            study.add_trial(_finished(optuna, facts, starts, params, trial.value, more))
    return suggest(study.ask(), facts, starts, more)


def _finished(
    optuna: ModuleType,
    facts: DataFacts,
    starts: Sequence[str],
    params: Mapping[str, Any],
    value: float,
    more: Sequence[str],
) -> Any:
    """Return a trial of an earlier session as an Optuna trial."""
    drawn = as_drawn(params, facts)
    fixed = optuna.trial.FixedTrial(drawn)
    suggest(fixed, facts, starts, more)
    return optuna.trial.create_trial(params=drawn, distributions=fixed.distributions, value=value)
