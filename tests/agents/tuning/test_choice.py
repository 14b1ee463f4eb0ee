"""The rule of choice: a gain within two standard errors of the paired difference is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.training.closed_form_search import Trials
from agents.tuning.choice import better_of
from refit_env.data import synthesize_checkins
from refit_env.evaluation.ranking import evaluate, evaluated_groups
from refit_env.evaluation.selection import parse_rule
from refit_env.evaluation.statistics import Gain, paired_bootstrap


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


def test_a_later_model_is_compared_with_the_one_that_is_kept() -> None:
    base = np.linspace(0.0, 1.0, 50)
    noise = np.where(np.arange(50) % 2, 0.1, -0.1)
    models = [("a", base), ("b", base + noise + 0.001), ("c", base + 0.0005), ("d", base + noise + 0.003)]
    assert better_of(models) == "c"


def test_rows_of_one_user_count_together() -> None:
    draws = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 20)  # 100 users of 20 rows, whose gains are alike
    before = draws.random(2000)
    after = before + draws.normal(0, 1, 100)[groups] + draws.normal(0, 0.1, 2000)
    alone, together = Gain.of(before, after), Gain.of(before, after, groups=groups)
    sums = np.bincount(groups, after - before).reshape(100)
    assert together.mean == alone.mean
    assert together.error == pytest.approx(np.std(sums, ddof=1) / 10 / 20)  # of the 100 users' means
    assert together.error > 4 * alone.error
    each = Gain.of(before, after, groups=draws.permutation(2000))
    assert each.error == pytest.approx(alone.error)


def test_the_error_of_groups_of_unequal_size_is_that_of_the_bootstrap() -> None:
    draws = np.random.default_rng(1)
    groups = np.repeat(np.arange(300), draws.integers(1, 9, 300))
    after = draws.normal(0, 1, 300)[groups] + draws.normal(0.2, 1, groups.size)
    found = Gain.of(np.zeros(groups.size), after, groups=groups)
    drawn = paired_bootstrap(np.zeros(groups.size), after, groups=groups, resamples=4000)
    assert (drawn.high - drawn.low) / 2 / 1.96 == pytest.approx(found.error, rel=0.1)


def test_one_group_decides_nothing_and_groups_are_of_the_same_users() -> None:
    assert Gain.of([0.1, 0.2], [0.9, 0.9], groups=[3, 3]).error == float("inf")
    with pytest.raises(ValueError, match="groups must hold one number per user, 2"):
        Gain.of([0.1, 0.2], [0.9, 0.9], groups=[3])


def test_a_model_that_gains_for_one_user_alone_is_not_clearly_better() -> None:
    groups = np.repeat(np.arange(4), 50)
    base = np.full(200, 0.5)
    noise = np.where(np.arange(200) % 2, 0.01, -0.01)
    other = base + noise + np.where(groups == 0, 0.2, 0.0)
    assert better_of([("a", base), ("b", other)]) == "b"
    assert better_of([("a", base), ("b", other)], groups=groups) == "a"


def test_settings_of_a_closed_form_on_rows_are_compared_with_whole_users() -> None:
    data = synthesize_checkins(num_users=40, num_items=24, checkins=30)
    trials = Trials(data, "linear", 1, parse_rule("ndcg@20"), torch.device("cpu"), None, [])
    one, other = {"l2": 1.0}, {"l2": 300.0}
    before, after = (
        evaluate(trials.policy_of(settings).scorer(data.episodes), data.episodes, "valid")
        for settings in (other, one)
    )
    values = before.per_user["ndcg@20"], after.per_user["ndcg@20"]
    groups = evaluated_groups(data, "valid")
    assert np.unique(groups).size < groups.size  # users with several rows
    found = trials.error_of(one, other)
    assert found == pytest.approx(Gain.of(*values, groups=groups).error)
    assert found != pytest.approx(Gain.of(*values).error, rel=0.01)
