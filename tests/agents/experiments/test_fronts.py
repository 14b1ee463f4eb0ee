"""Fronts: dominated areas, weights of users, intervals."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from agents.experiments.fronts import Box, area, on_front, pooled_interval, user_weights, weighted_goal
from refit_env.data import load_dataset
from refit_env.evaluation.beyond_accuracy import beyond_accuracy
from refit_env.evaluation.catalogue import catalogue_of
from refit_env.evaluation.metrics import gini
from refit_env.evaluation.ranking import evaluate

points = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=8)


@given(points)
def test_the_area_is_the_number_of_dominated_cells(found: list[tuple[int, int]]) -> None:
    cells = {(i, j) for x, y in found for i in range(x) for j in range(y)}
    x, y = np.array(found, np.float64).T
    assert area(x, y) == len(cells)


@given(points)
def test_no_point_of_a_front_is_dominated_and_every_other_is(found: list[tuple[int, int]]) -> None:
    x, y = np.array(found, np.float64).T
    front = set(on_front(x, y).tolist())
    for n in range(len(found)):
        better = [m for m in range(len(found)) if x[m] >= x[n] and y[m] >= y[n] and found[m] != found[n]]
        equal = [m for m in front if found[m] == found[n]]
        assert bool(equal) == (not better)


def test_a_box_turns_goals_of_which_less_is_better() -> None:
    box = Box.of("gini@20", 0.9, np.array([0.9, 0.5, 0.95]))
    assert box.width == pytest.approx(0.4)
    # At the start's NDCG and half of the way to the best Gini; a worse Gini counts nothing.
    assert box.area(np.array([0.3]), np.array([0.7]), (0.3, 0.9)) == pytest.approx(0.5)
    assert box.area(np.array([0.3]), np.array([0.95]), (0.3, 0.9)) == 0.0
    assert box.area(np.array([0.27]), np.array([0.5]), (0.3, 0.9)) == pytest.approx(0.0)


def test_equal_weights_give_the_metrics_themselves() -> None:
    data = load_dataset("synthetic")
    rng = np.random.default_rng(0)
    scores = rng.random((data.num_users, data.num_items)).astype(np.float32)
    import torch

    found = evaluate(lambda users: torch.from_numpy(scores)[users], data)
    means = beyond_accuracy(found, data).means
    weights = np.ones((1, len(found.users)))
    masked = sp.csr_matrix((data.masked("test")[found.users] > 0).astype(np.float64))
    for name in ("coverage", "gini", "rsp"):
        value = weighted_goal(name, found.lists, None, weights, catalogue_of(data), masked)
        assert value[0] == pytest.approx(means[f"{name}@20"])


def test_a_weight_counts_a_user_as_often() -> None:
    data = load_dataset("synthetic")
    lists = np.array([[0, 1], [1, 2]])
    none = sp.csr_matrix((2, data.num_items))
    found = weighted_goal("gini", lists, None, np.array([[3.0, 1.0]]), catalogue_of(data), none)
    import torch

    again = gini(torch.tensor([[0, 1], [0, 1], [0, 1], [1, 2]]), data.num_items)
    assert found[0] == pytest.approx(again)


def test_weights_of_a_bayesian_bootstrap_have_its_moments() -> None:
    weights = user_weights(np.arange(50), 4000, seed=0)
    assert weights.mean(1) == pytest.approx(np.ones(4000))
    values = np.arange(50.0)
    spread = (weights @ values / 50).std()
    assert spread == pytest.approx(values.std() / np.sqrt(51), rel=0.06)
    together = user_weights(np.repeat([7, 3, 5], [4, 1, 2]), 100, seed=0)
    assert together.mean(1) == pytest.approx(np.ones(100))
    assert (together[:, :4] == together[:, :1]).all() and (together[:, 5] == together[:, 6]).all()
    assert (together[:, 0] != together[:, 4]).all()


def test_an_interval_over_seeds_and_users_is_wider_than_either() -> None:
    rng = np.random.default_rng(0)
    draws = [list(rng.normal(level, 1.0, 200)) for level in (0.0, 2.0, 4.0)]
    mean, low, high = pooled_interval(draws)
    alone = pooled_interval([[float(np.mean(own))] for own in draws])
    assert mean == pytest.approx(2.0, abs=0.3)
    assert high - low > alone[2] - alone[1]
