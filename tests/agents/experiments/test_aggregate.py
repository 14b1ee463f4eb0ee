"""Statistics over seeds and over environments, against hand-worked cases and brute force."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from agents.experiments.aggregate import (
    by_row,
    gain,
    gain_tables,
    improvement,
    over_environments,
    over_seeds,
    without_gains,
)
from agents.experiments.tables import aggregate_table
from refit_env.evaluation.statistics import interquartile_mean, mean_interval

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


def result(env: str, row: str, seed: int, value: float, **cost: float) -> dict[str, Any]:
    """A finished cell whose metrics are all ``value``."""
    costs = {"training_seconds": 2.0, "validation_seconds": 1.0, "peak_memory_mib": 100.0} | cost
    return {
        "env": env,
        "row": row,
        "seed": seed,
        "test": dict.fromkeys(METRICS, value),
        "valid": dict.fromkeys(METRICS, value / 2),
        "cost": costs,
        "env_steps": 1000 + seed,
        "curve": {},
    }


def table(values: dict[str, dict[str, list[float]]]) -> Any:
    """Results of cells from environment -> row -> a value a seed, the last seed first."""
    cells = [
        result(env, row, seed, value)
        for env, rows in values.items()
        for row, runs in rows.items()
        for seed, value in reversed(list(enumerate(runs)))
    ]
    return by_row({str(place): cell for place, cell in enumerate(cells)})


def test_differences_are_paired_by_seed() -> None:
    runs = [result("E", "ppo", seed, 0.1 * seed + 0.12) for seed in (0, 1, 2)]
    base = [
        result("E", "none", seed, 0.1 * seed + 0.1) for seed in (2, 1, 0)
    ]  # another order, the same seeds
    found = over_seeds(runs, base)
    assert found["difference"]["ndcg@20"]["mean"] == pytest.approx(0.02)
    assert found["difference"]["ndcg@20"]["high"] == pytest.approx(0.02)  # paired: no spread is left
    assert found["difference"]["ndcg@20"]["excludes_zero"]
    expected = mean_interval([0.12, 0.22, 0.32])
    assert found["test"]["ndcg@20"]["low"] == pytest.approx(expected.low)
    assert found["seconds"] == 3.0 and found["seeds"] == [0, 1, 2] and found["env_steps"] == 1001.0


def test_differences_that_may_be_nothing_do_not_exclude_zero() -> None:
    base = [result("E", "none", seed, 0.3) for seed in range(3)]
    runs = [result("E", "ppo", seed, value) for seed, value in enumerate((0.2, 0.3, 0.45))]
    assert not over_seeds(runs, base)["difference"]["ndcg@20"]["excludes_zero"]
    one = over_seeds(runs[:1], base)["difference"]["ndcg@20"]
    assert one["low"] is None and not one["excludes_zero"]  # of one seed nothing is known
    assert "difference" not in over_seeds(base, base)
    missing = over_seeds(runs, base[1:])  # seed 0 has nothing to be compared with
    assert missing["difference"]["ndcg@20"]["count"] == 2


def test_peak_memory_is_the_worst_seed_s() -> None:
    runs = [result("E", "none", s, 0.3, peak_memory_mib=m) for s, m in enumerate((10.0, 30.0, 20.0))]
    assert over_seeds(runs, runs)["peak_memory_mib"] == 30.0


def test_gains_are_relative_and_over_nothing_there_is_none() -> None:
    assert gain(result("E", "ppo", 0, 0.3), result("E", "none", 0, 0.2), "ndcg@20") == pytest.approx(0.5)
    for after in (0.0, 0.3):
        assert gain(result("E", "ppo", 0, after), result("E", "none", 0, 0.0), "ndcg@20") is None


def test_a_pretrained_model_at_zero_takes_its_environment_out_of_the_aggregates_alone() -> None:
    values = {
        "E": {"none": [0.1, 0.2], "reinforce": [0.2, 0.3]},
        "F": {"none": [0.0, 0.4], "reinforce": [0.4, 0.6]},
    }
    results = table(values)
    assert without_gains(results) == ["F"]
    found = over_environments(results)["reinforce"]["iqm"]
    assert found["mean"] == pytest.approx(0.75)  # of 1.0 and 0.5, those of E
    rows = results["F"]
    over = over_seeds(rows["reinforce"], rows["none"])
    assert over["relative_gain"]["ndcg@20"] is None
    assert over["difference"]["ndcg@20"]["mean"] == pytest.approx(0.3)
    shown = aggregate_table(results)
    assert shown is not None and "1 environment" in shown.title and "F left out" in shown.title
    assert over_environments(table({"F": values["F"]})) == {}


def test_aggregates_take_complete_rows_alone() -> None:
    values = {
        "E": {"none": [0.1, 0.2], "reinforce": [0.2, 0.3], "ppo": [0.11, 0.22], "es": [0.1]},
        "F": {"none": [0.4, 0.4], "reinforce": [0.4, 0.6], "ppo": [0.44, 0.44], "es": [0.4, 0.4]},
    }
    tables = gain_tables(table(values), "ndcg@20")
    assert set(tables) == {"reinforce", "ppo"}  # a seed of es is missing
    np.testing.assert_allclose(tables["ppo"], [[0.1, 0.1], [0.1, 0.1]])
    np.testing.assert_allclose(tables["reinforce"], [[1.0, 0.0], [0.5, 0.5]])  # (seeds, environments)
    found = over_environments(table(values))
    assert found["ppo"]["iqm"]["mean"] == pytest.approx(0.1)
    assert found["reinforce"]["iqm"]["mean"] == pytest.approx(interquartile_mean([1.0, 0.0, 0.5, 0.5]))
    assert found["ppo"]["improvement"]["mean"] == pytest.approx(0.25)  # F: one of two pairs; E: none
    assert "improvement" not in found["reinforce"]
    values["F"]["none"] = [0.4]
    assert over_environments(table(values)) == {}


def test_probability_of_improvement_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 4, (5, 3)) / 4, rng.integers(0, 4, (5, 3)) / 4  # ties happen
    pairs = [
        (x > y) + 0.5 * (x == y)
        for env in range(3)
        for x, y in itertools.product(ours[:, env], theirs[:, env])
    ]
    found = improvement(ours, theirs)
    assert found.mean == pytest.approx(np.mean(pairs))
    assert 0.0 <= found.low <= found.mean <= found.high <= 1.0
    assert improvement(ours, theirs).mean + improvement(theirs, ours).mean == pytest.approx(1.0)
    certain = improvement([[0.2], [0.3]], [[0.0], [0.1]])
    assert (certain.low, certain.mean, certain.high) == (1.0, 1.0, 1.0)
