"""The closed forms and neighbourhoods against dense NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from agents.baselines import baseline
from agents.baselines.slim import sparse_regression
from refit_env.data import Dataset
from refit_env.utils.least_squares import LeastSquares, solve
from tests.agents.baselines.conftest import scores_of


def test_ease_is_the_regression_on_all_other_items(few: Dataset, table: np.ndarray) -> None:
    weights = np.zeros((6, 6))
    for item in range(6):
        others = [other for other in range(6) if other != item]
        x = table[:, others]
        weights[others, item] = np.linalg.solve(x.T @ x + 3.0 * np.eye(5), x.T @ table[:, item])
    np.testing.assert_allclose(scores_of("ease", few, l2=3.0), table @ weights, atol=1e-5)


def test_gf_cf_is_two_filters(few: Dataset, table: np.ndarray) -> None:
    by_user, by_item = table.sum(1, keepdims=True), table.sum(0)
    normal = table / np.sqrt(by_user) / np.sqrt(by_item)
    leading = np.linalg.svd(normal)[2][:2].T
    low = (table / np.sqrt(by_item)) @ leading @ leading.T * np.sqrt(by_item)
    wanted = table @ normal.T @ normal + 0.3 * low
    np.testing.assert_allclose(scores_of("gf-cf", few, rank=2), wanted, atol=1e-5)


def test_item_knn_sums_the_nearest_items_similarities(few: Dataset, table: np.ndarray) -> None:
    common, counts = table.T @ table, table.sum(0)
    for balance in (0.5, 0.0):
        scale = counts[:, None] ** balance * counts[None, :] ** (1 - balance)  # [scored, owned]
        similarity = common / (scale + 2.0)
        np.fill_diagonal(similarity, 0.0)
        for row in similarity:
            row[np.lexsort((np.arange(6), -row))[2:]] = 0.0
        wanted = table @ similarity.T
        found = scores_of("item-knn", few, neighbors=2, shrink=2.0, balance=balance)
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_user_knn_sums_the_nearest_users_rows(few: Dataset, table: np.ndarray) -> None:
    length = np.sqrt(table.sum(1))
    similarity = table @ table.T / (length[:, None] * length[None, :])
    np.fill_diagonal(similarity, 0.0)
    for row in similarity:
        row[np.lexsort((np.arange(5), -row))[2:]] = 0.0
    np.testing.assert_allclose(scores_of("user-knn", few, neighbors=2), similarity @ table, atol=1e-6)


def test_rp3beta_is_a_walk_of_three_steps(few: Dataset, table: np.ndarray) -> None:
    to_user = (table / table.sum(0)).T ** 0.7  # (I, U)
    to_item = (table / table.sum(1, keepdims=True)) ** 0.7  # (U, I)
    walk = to_user @ to_item / table.sum(0) ** 0.4
    np.fill_diagonal(walk, 0.0)
    found = scores_of("rp3beta", few, alpha=0.7, beta=0.4, neighbors=6)
    np.testing.assert_allclose(found, table @ walk, atol=1e-6)
    for row in walk:
        row[np.lexsort((np.arange(6), -row))[2:]] = 0.0
    found = scores_of("rp3beta", few, alpha=0.7, beta=0.4, neighbors=2)
    np.testing.assert_allclose(found, table @ walk, atol=1e-6)


def test_slim_is_where_coordinate_descent_ends(few: Dataset, table: np.ndarray) -> None:
    l1, l2 = 0.3, 0.5
    gram, weights = table.T @ table, np.zeros((6, 6))
    for _ in range(500):
        for item in range(6):
            for other in range(6):
                if other != item:
                    rest = gram[other, item] - gram[other] @ weights[:, item]
                    rest += gram[other, other] * weights[other, item]
                    weights[other, item] = max(0.0, rest - l1) / (gram[other, other] + l2)
    found = sparse_regression(few.train.csr.astype(np.float64), l1, l2, rho=2.0, iterations=500)
    np.testing.assert_allclose(found, weights, atol=1e-4)
    assert (found == 0).sum() > 6  # sparse beyond the diagonal


def test_slim_refuses_what_does_not_fit(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.baselines.slim.LARGEST", 5)
    with pytest.raises(ValueError, match="'few' has 6, more than 5; use 'item-knn' or 'rp3beta'"):
        baseline("slim")().fit(few)


@pytest.mark.parametrize("frequency", [0.0, 1.0])
def test_an_als_step_solves_the_weighted_least_squares(
    few: Dataset, table: np.ndarray, frequency: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refit_env.utils.least_squares.CELLS", {"cpu": 40})  # a few rows at a time
    problem = LeastSquares(unobserved=0.2, l2=0.5, frequency=frequency)
    items = np.random.default_rng(0).standard_normal((6, 3))
    found = solve(few.train.csr.astype(np.float64), torch.as_tensor(items), problem)
    counts = table.sum(1)
    weight = (counts + 0.2 * 6) ** frequency
    ridge = 0.5 * counts.mean() * weight / weight.mean()
    for user in range(5):
        confidence = table[user] + 0.2  # of a prediction of 1 where observed; of 0 for all pairs
        system = items.T @ (confidence[:, None] * items) + ridge[user] * np.eye(3)
        wanted = np.linalg.solve(system, items.T @ table[user])
        np.testing.assert_allclose(found[user].numpy(), wanted, atol=1e-8)


def test_ials_reconstructs_what_it_saw(few: Dataset, table: np.ndarray) -> None:
    scores = scores_of("ials", few, embedding=5, epochs=30, unobserved=0.05, l2=1e-3)
    assert scores[table == 1].min() > scores[table == 0].max()


def test_popularity_counts(few: Dataset, table: np.ndarray) -> None:
    np.testing.assert_array_equal(scores_of("popularity", few), np.tile(table.sum(0), (5, 1)))


def test_an_l2_that_rounding_removes_is_refused() -> None:
    alike = sp.csr_matrix(np.ones((2, 2)))
    with pytest.raises(ValueError, match="l2=1e-30 is too small to solve systems of 2 equations"):
        solve(alike, torch.ones(2, 2), LeastSquares(1.0, 1e-30))
    with pytest.raises(ValueError, match="l2=1e-30 with rho=1e-30 is too small to solve systems of 2"):
        sparse_regression(alike, 0.0, 1e-30, 1e-30, 1)
