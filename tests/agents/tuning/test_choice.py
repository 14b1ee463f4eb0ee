"""The rule of choice: a gain within two standard errors of the paired difference is none."""

from __future__ import annotations

import numpy as np
import pytest

from agents.tuning.choice import better_of
from agents.tuning.outcome import verdict
from agents.tuning.trials import Trial
from refit_env.evaluation.statistics import Gain


def test_the_error_is_that_of_the_paired_difference() -> None:
    draws = np.random.default_rng(0)
    before = draws.random(400)  # the users differ much more than the two models
    after = before + draws.normal(0.001, 0.01, 400)
    gain = Gain.of(before, after)
    assert gain.mean == pytest.approx((after - before).mean())
    assert gain.error == pytest.approx(np.std(after - before, ddof=1) / 20)
    assert gain.error < 0.1 * Gain.of(before, after[::-1]).error
    assert gain.clear == (gain.mean > 2 * gain.error)


@pytest.mark.parametrize(("mean", "clear"), [(0.0201, True), (0.0199, False), (-0.5, False)])
def test_a_gain_is_clear_above_two_standard_errors(mean: float, clear: bool) -> None:
    assert Gain(mean, 0.01).clear is clear


def test_equal_models_and_a_single_user_show_no_clear_gain() -> None:
    assert not Gain.of([0.1, 0.2], [0.1, 0.2]).clear
    assert not Gain.of([0.1], [0.9]).clear


def test_the_verdict_of_a_single_user_says_that_there_is_no_standard_error() -> None:
    policy, ease = Trial("closed form", "linear", {}, 0.5), Trial("baseline", "ease", {}, 0.25)
    lines = verdict(policy, None, ease, "ndcg@20", {"baseline": Gain.of([0.25], [0.5])})
    assert lines[2:] == [
        "Validation does not decide: the best baseline, ease, has 0.2500.",
        "The policy has +0.2500, no standard error (fewer than two independent users): use the policy, whose "
        "mean is higher.",
    ]


def test_a_later_model_is_compared_with_the_one_that_is_kept() -> None:
    base = np.linspace(0.0, 1.0, 50)
    noise = np.where(np.arange(50) % 2, 0.1, -0.1)
    models = [("a", base), ("b", base + noise + 0.001), ("c", base + 0.0005), ("d", base + noise + 0.003)]
    assert better_of(models) == "c"


def test_a_model_that_gains_for_one_user_alone_is_not_clearly_better() -> None:
    groups = np.repeat(np.arange(4), 50)
    base = np.full(200, 0.5)
    noise = np.where(np.arange(200) % 2, 0.01, -0.01)
    other = base + noise + np.where(groups == 0, 0.2, 0.0)
    assert better_of([("a", base), ("b", other)]) == "b"
    assert better_of([("a", base), ("b", other)], groups=groups) == "a"
