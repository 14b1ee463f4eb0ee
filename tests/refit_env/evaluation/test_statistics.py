from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats as scipy_stats

from refit_env.evaluation.statistics import (
    Gain,
    interquartile_mean,
    mean_interval,
    paired_bootstrap,
    paired_bootstraps,
    seeds_and_users_bootstrap,
    stratified_bootstrap,
)


def test_paired_bootstrap_agrees_with_scipy_and_with_the_normal_limit() -> None:
    rng = np.random.default_rng(0)
    before = rng.random(400)
    after = before + rng.normal(0.01, 0.1, 400)
    ours = paired_bootstrap(before, after, resamples=4000)
    scipys = scipy_stats.bootstrap(
        (after - before,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    error = (after - before).std(ddof=1) / 20
    assert ours.low == pytest.approx(scipys.low, abs=0.15 * error)
    assert ours.high == pytest.approx(scipys.high, abs=0.15 * error)
    assert ours.high - ours.low == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert ours.mean_difference == pytest.approx((after - before).mean())
    assert ours.after - ours.before == pytest.approx(ours.mean_difference)
    assert ours.relative_gain == pytest.approx(ours.after / ours.before - 1)


def test_pairing_removes_the_spread_between_users() -> None:
    users = np.random.default_rng(0).random(500)  # users differ, but all gain the same
    result = paired_bootstrap(users, users + 0.01)
    assert result.low == pytest.approx(0.01) and result.high == pytest.approx(0.01)
    assert result.excludes_zero
    assert not paired_bootstrap(users, users).excludes_zero


def test_interval_covers_the_truth_at_its_confidence() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        gain = rng.normal(0.5, 1.0, 60)
        result = paired_bootstrap(np.zeros(60), gain, resamples=500, seed=trial)
        covered += result.low <= 0.5 <= result.high
    assert 178 <= covered <= 200


def test_same_seed_same_interval_whatever_the_other_metrics() -> None:
    rng = np.random.default_rng(0)
    before = {"a": rng.random(50), "b": rng.random(50)}
    after = {"b": rng.random(50), "a": rng.random(50)}  # another order of names
    table = paired_bootstraps(before, after, resamples=300, seed=5)
    assert table["a"] == paired_bootstrap(before["a"], after["a"], resamples=300, seed=5)
    assert table["b"] == paired_bootstrap(before["b"], after["b"], resamples=300, seed=5)
    assert table["a"] != paired_bootstrap(before["a"], after["a"], resamples=300, seed=6)
    assert json.loads(json.dumps(table["a"].to_json()))["num_users"] == 50


def test_copies_of_a_user_that_are_drawn_together_are_one_user() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random(40), rng.random(40)
    once = paired_bootstrap(before, after, resamples=500)
    alone = paired_bootstrap(before, after, groups=rng.permutation(40), resamples=500, seed=1)
    thrice = paired_bootstrap(
        np.repeat(before, 3), np.repeat(after, 3), groups=np.repeat(np.arange(40) * 7, 3), resamples=500
    )
    assert (thrice.mean_difference, thrice.low, thrice.high) == pytest.approx(
        (once.mean_difference, once.low, once.high)
    )
    assert alone.low == pytest.approx(once.low, abs=0.03)


def test_of_rows_that_depend_on_their_group_the_interval_covers_the_mean_only_with_groups() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), rng.integers(5, 15, 40))
    covered = {True: 0, False: 0}
    for _ in range(150):
        values = rng.standard_normal(40)[groups] + 0.3 * rng.standard_normal(groups.size)
        for together in covered:
            found = paired_bootstrap(
                np.zeros(groups.size), values, groups=groups if together else None, resamples=300
            )
            covered[together] += found.low <= 0 <= found.high
    assert covered[True] >= 130 and covered[False] <= 90


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([0.1, 0.2], [0.1], "2 users"),
        ([], [], "shape"),
        ([0.1, float("nan")], [0.1, 0.2], "NaN"),
        ([[0.1]], [[0.1]], "shape"),
    ],
)
def test_bad_values_are_refused(before: list[float], after: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(before, after)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="confidence"):
        paired_bootstrap([0.0], [1.0], confidence=95)
    with pytest.raises(ValueError, match="resamples"):
        paired_bootstrap([0.0], [1.0], resamples=0)
    with pytest.raises(ValueError, match="one number per user"):
        paired_bootstrap([0.0, 0.1], [1.0, 0.3], groups=[1])
    with pytest.raises(ValueError, match="metrics"):
        paired_bootstraps({"a": [0.0]}, {"b": [0.0]})
    with pytest.raises(ValueError, match="method"):
        mean_interval([1.0, 2.0], method="z")


def test_mean_interval_over_seeds() -> None:
    values = [0.11, 0.12, 0.14, 0.10, 0.13]
    interval = mean_interval(values)
    low, high = scipy_stats.t.interval(0.95, 4, loc=np.mean(values), scale=scipy_stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    bootstrap = mean_interval(values, method="bootstrap")
    assert low < bootstrap.low < bootstrap.mean < bootstrap.high < high
    assert mean_interval([0.3]).high == float("inf")
    assert mean_interval([0.3]).to_json() == {"mean": 0.3, "low": None, "high": None, "count": 1}


def test_interquartile_mean() -> None:
    assert interquartile_mean([0, 1, 2, 3, 4, 5, 6, 1000]) == 3.5
    assert interquartile_mean([1.0, 2.0, 6.0]) == 3.0  # too few to trim
    np.testing.assert_array_equal(interquartile_mean(np.arange(8).reshape(4, 2), axis=0), [3.0, 4.0])


def test_stratified_bootstrap_resamples_within_environments() -> None:
    scores = np.array([[0.1, 10.0], [0.1, 10.0], [0.1, 10.0]])  # no spread within an environment
    interval = stratified_bootstrap(scores, statistic=lambda table: float(table.mean()), resamples=50)
    assert interval.low == interval.mean == interval.high == pytest.approx(5.05)
    with pytest.raises(ValueError, match="environments"):
        stratified_bootstrap([1.0, 2.0])


def test_an_interval_over_seeds_and_users_holds_both_sources_of_noise() -> None:
    rng = np.random.default_rng(0)
    users = rng.normal(0.0, 0.1, size=(1, 400)).repeat(2, axis=0)  # both seeds alike
    seeds = np.array([[0.05], [-0.05]])
    alike, apart = seeds_and_users_bootstrap(users), seeds_and_users_bootstrap(users + seeds)
    alone = paired_bootstrap(np.zeros(400), users[0])
    assert alike.high - alike.low < 1.2 * (alone.high - alone.low)
    assert apart.high - apart.low > 0.09  # seeds of -.05 and +.05
    assert apart.mean == pytest.approx(users.mean()) and apart.count == 2
    groups = np.repeat(np.arange(100), 4)
    each = rng.normal(0.0, 0.1, size=(2, 100))[:, groups]  # four rows of a group are alike
    whole, rows = seeds_and_users_bootstrap(each, groups=groups), seeds_and_users_bootstrap(each)
    assert whole.high - whole.low > 1.5 * (rows.high - rows.low) and whole.mean == rows.mean
    with pytest.raises(ValueError, match="one number per user"):
        seeds_and_users_bootstrap(each, groups=groups[1:])
    for wrong in ([], [0.1, 0.2], [[0.1, np.nan]]):
        with pytest.raises(ValueError, match="differences must be finite numbers"):
            seeds_and_users_bootstrap(wrong)


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


@pytest.mark.parametrize(
    ("before", "after", "groups"), [([0.1], [0.9], None), ([0.1, 0.2, 0.3], [0.9, 0.9, 0.9], [3, 3, 3])]
)
def test_a_single_user_or_group_has_no_interval(
    before: list[float], after: list[float], groups: list[int] | None
) -> None:
    found = paired_bootstrap(before, after, groups=groups)
    assert (found.low, found.high) == (float("-inf"), float("inf")) and not found.excludes_zero
    whole = found.to_json()
    assert whole["low"] is whole["high"] is None
    assert whole["mean_difference"] == pytest.approx(np.mean(after) - np.mean(before))
    seeds = np.array([after, after]) - before
    several = seeds_and_users_bootstrap(seeds, groups=groups)
    assert (several.low, several.high) == (float("-inf"), float("inf")) and several.count == 2


def test_one_group_decides_nothing_and_groups_are_of_the_same_users() -> None:
    assert Gain.of([0.1, 0.2], [0.9, 0.9], groups=[3, 3]).error == float("inf")
    with pytest.raises(ValueError, match="groups must hold one number per user, 2"):
        Gain.of([0.1, 0.2], [0.9, 0.9], groups=[3])
