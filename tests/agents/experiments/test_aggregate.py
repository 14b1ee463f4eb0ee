"""Statistics over seeds and over environments, against hand-worked cases and brute force."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from agents.experiments.aggregate import (
    by_start,
    by_variant,
    gain_tables,
    improvement,
    over_environments,
    without_gains,
)
from agents.experiments.summary import Runs, gain
from agents.experiments.tables import aggregate_table
from refit_env.evaluation.statistics import interquartile_mean

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


def result(seed: int, value: float) -> dict[str, Any]:
    """A finished record whose metrics are all ``value``."""
    return {"seed": seed, "test": dict.fromkeys(METRICS, value)}


def table(values: dict[str, dict[str, list[float]]]) -> Any:
    """Results from environment -> variant -> a value a seed, and another model's, which do not count."""
    groups = [
        Runs(env, model, row, row.upper(), "none", tuple(result(n, value) for n, value in enumerate(runs)))
        for model in ("diffrec", "other")
        for env, rows in values.items()
        for row, runs in rows.items()
    ]
    return by_variant(groups)


def test_each_start_has_its_records() -> None:
    """Of an environment with one model its id names the start."""
    groups = [
        Runs(env, model, "racs", "RACS", "none", (result(0, value),))
        for env, model, value in (("E", "linear", 0.1), ("E", "diffrec", 0.2), ("F", "diffrec", 0.3))
    ]
    found = {name: rows["racs"][0]["test"]["ndcg@20"] for name, rows in by_start(groups).items()}
    assert found == {"E, linear": 0.1, "E, diffrec": 0.2, "F": 0.3}


TITLES = [
    {"variant": "pretrained", "title": "start", "budget": []},
    {"variant": "reinforce", "title": "REINFORCE", "budget": ["work"]},
]


def test_gains_are_relative_and_over_nothing_there_is_none() -> None:
    assert gain(result(0, 0.3), result(0, 0.2), "ndcg@20") == pytest.approx(0.5)
    for after in (0.0, 0.3):
        assert gain(result(0, after), result(0, 0.0), "ndcg@20") is None


def test_a_pretrained_model_at_zero_removes_its_environment_from_the_aggregates_alone() -> None:
    values = {
        "E": {"pretrained": [0.1, 0.2], "reinforce": [0.2, 0.3]},
        "F": {"pretrained": [0.0, 0.4], "reinforce": [0.4, 0.6]},
    }
    results = table(values)
    assert without_gains(results) == ["F"]
    found = over_environments(results)["reinforce"]["iqm"]
    assert found["mean"] == pytest.approx(0.75)  # of 1.0 and 0.5, those of E
    shown = aggregate_table(results, TITLES)
    assert shown is not None and "1 environment" in shown.title and "F left out" in shown.title
    assert [line[0] for line in shown.rows] == ["REINFORCE, same work"]
    assert shown.columns[2] == "P(better than REINFORCE)"
    assert over_environments(table({"F": values["F"]})) == {}


def test_aggregates_take_complete_rows_alone() -> None:
    values = {
        "E": {"pretrained": [0.1, 0.2], "reinforce": [0.2, 0.3], "ppo": [0.11, 0.22], "es": [0.1]},
        "F": {"pretrained": [0.4, 0.4], "reinforce": [0.4, 0.6], "ppo": [0.44, 0.44], "es": [0.4, 0.4]},
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
    values["F"]["pretrained"] = [0.4]
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
