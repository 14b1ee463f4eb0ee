"""Rewards by a linear model against oracles that solve what the closed forms claim to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refit_env.data import Interactions, load_dataset
from refit_env.data.dataset import Dataset, RowDataset
from refit_env.rewards import make_relevance, make_reward
from refit_env.rewards.linear_models import Ease, GraphFilter, ModelReward, weighted
from refit_env.rewards.ridge_solver import ByItems, ByUsers
from refit_env.utils.content_cache import CACHE
from refit_env.utils.ridge import ridge_weights

ITEMS = 6
UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
many = settings(max_examples=30, suppress_health_check=UNCHECKED)
tables = hnp.arrays(
    np.int8, st.tuples(st.integers(3, 7), st.integers(4, 7)), elements=st.sampled_from([-1, 0])
)


def predicted(reward: object, count: int) -> np.ndarray:
    assert isinstance(reward, ModelReward)
    return reward.predict(torch.arange(count)).double().numpy()


def ridge(x: np.ndarray, y: np.ndarray, l2: float) -> np.ndarray:
    """argmin |y - x w|^2 + l2 |w|^2, as least squares of a longer system."""
    longer = np.concatenate([x, np.sqrt(l2) * np.eye(x.shape[1])])
    return np.linalg.lstsq(longer, np.concatenate([y, np.zeros(x.shape[1])]), rcond=None)[0]


@given(table=tables, l2=st.sampled_from([0.5, 3.0, 200.0]))
@many
def test_ease_regresses_each_item_on_all_others(
    make_dataset: Callable[..., Dataset], table: np.ndarray, l2: float
) -> None:
    table[0, 0] = table[1, 1] = 0  # somebody has something
    dataset = make_dataset(table)
    x = (table == 0).astype(float)
    weights = np.zeros((x.shape[1], x.shape[1]))
    for item in range(x.shape[1]):
        others = np.delete(np.arange(x.shape[1]), item)
        weights[others, item] = ridge(x[:, others], x[:, item], l2)
    reward = make_reward("ease", dataset, make_relevance("train", dataset), k=2, l2=l2)
    assert predicted(reward, len(x)) == pytest.approx(x @ weights, abs=1e-5)


@given(table=tables, rank=st.integers(1, 9), alpha=st.sampled_from([0.0, 0.3, 1.0]))
@many
def test_gf_cf_is_two_filters_of_the_row(
    make_dataset: Callable[..., Dataset], table: np.ndarray, rank: int, alpha: float
) -> None:
    table[0, 0] = table[1, 1] = 0
    x = (table == 0).astype(float)
    users, items = np.maximum(x.sum(1), 1), np.maximum(x.sum(0), 1)
    normal = x / np.sqrt(users)[:, None] / np.sqrt(items)
    rank = min(rank, min(x.shape) - 1)
    _, values, rows = np.linalg.svd(normal)
    if np.isclose(values[rank - 1], values[rank], atol=1e-3):
        return  # which directions lead is a choice
    low = (x / np.sqrt(items)) @ rows[:rank].T @ rows[:rank] * np.sqrt(items)
    dataset = make_dataset(table)
    reward = make_reward("gf_cf", dataset, make_relevance("train", dataset), k=2, rank=rank, alpha=alpha)
    assert predicted(reward, len(x)) == pytest.approx(x @ normal.T @ normal + alpha * low, abs=1e-4)


def test_the_reward_of_the_models_own_list_is_one_and_of_hidden_items_nothing() -> None:
    dataset = load_dataset("synthetic")
    relevance = make_relevance("holdout", dataset)
    users = torch.from_numpy(relevance.users[:50])
    for name in ("ease", "gf_cf"):
        reward = make_reward(name, dataset, relevance)
        assert isinstance(reward, ModelReward)
        own = reward.predict(users)
        assert torch.allclose(reward(own, users).value, torch.ones(50)), name
        assert float(reward(-own, users).value.max()) < 0.7, name
        hidden = reward.hidden(users)
        assert hidden is not None and not bool(reward.gains(users)[hidden].any()), name


def test_the_model_reads_the_visible_row_and_is_fitted_to_the_whole_train_split() -> None:
    dataset = load_dataset("synthetic")
    whole, part = (make_reward("ease", dataset, make_relevance(m, dataset)) for m in ("train", "holdout"))
    assert isinstance(whole, Ease) and isinstance(part, Ease)
    assert isinstance(whole.model, ByItems) and isinstance(part.model, ByItems)
    assert whole.model.weights.data_ptr() == part.model.weights.data_ptr()  # fitted once
    row = torch.from_numpy(make_relevance("holdout", dataset).visible[:3].toarray()).float()
    assert torch.allclose(part.predict(torch.arange(3)), row @ part.model.weights, atol=1e-5)


@pytest.mark.parametrize("mode", ["train", "holdout"])
def test_by_users_and_by_items_are_one_model(mode: str) -> None:
    data = load_dataset("synthetic")
    few = data.train.csr[:300]  # fewer users than items
    train = Interactions.from_pairs(*few.nonzero(), 300, data.num_items)
    none = Interactions.from_pairs([], [], 300, data.num_items)
    dataset = Dataset("few", "cf", train, none, none, False)
    relevance = make_relevance(mode, dataset)
    reward = make_reward("ease", dataset, relevance, l2=20.0)
    assert isinstance(reward, Ease) and isinstance(reward.model, ByUsers)
    weights = ridge_weights(sp.csr_matrix(few, dtype=np.float64), 20.0, None, torch.device("cpu")).numpy()
    expected = relevance.visible.toarray() @ weights
    assert predicted(reward, 300) == pytest.approx(expected, abs=1e-5)
    one = torch.cat([reward.predict(torch.tensor([u])) for u in range(40)])
    assert torch.equal(reward.predict(torch.arange(40)), one)


def test_a_system_of_users_that_rounding_breaks_is_refused(make_dataset: Callable[..., Dataset]) -> None:
    twins = make_dataset(np.zeros((3, 5), np.int8))  # three users with the same five items
    with pytest.raises(ValueError, match="l2=1e-09 is too small to solve 3 equations"):
        make_reward("ease", twins, make_relevance("train", twins), k=2, l2=1e-9)


def test_a_system_of_users_that_cannot_be_factored_is_refused(
    make_dataset: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With any rounding: the inverse of a failed factor is never computed."""
    twins = make_dataset(np.zeros((3, 5), np.int8))

    def failing(gram: torch.Tensor, *, out: tuple[torch.Tensor, torch.Tensor]) -> None:
        out[1].resize_(()).fill_(2)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", failing)
    # another test may have solved this very system
    CACHE.clear()
    with pytest.raises(ValueError, match=r"l2=3.0 is too small to solve 3 equations in float32; use 1 or"):
        make_reward("ease", twins, make_relevance("train", twins), k=2, l2=3.0)


def test_a_system_of_items_that_rounding_breaks_is_refused(
    make_dataset: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = make_dataset(np.zeros((5, 3), np.int8))  # three items with the same five users
    refused = r"l2=1e-18 is too small to solve 3 equations in float64; use 1 or more"
    with pytest.raises(ValueError, match=refused):
        make_reward("ease", twins, make_relevance("train", twins), k=2, l2=1e-18)
    ordered = sessions(*[[0, 1, 0]] * 7, valid=[0, 1], test=[1, 0])
    relevance = make_relevance("train", ordered)
    with pytest.raises(ValueError, match="l2=1e-18 is too small to solve 6 equations"):
        make_reward("ease", ordered, relevance, k=2, l2=1e-18, leave_one_out=True)

    def failing(gram: torch.Tensor, *, out: tuple[torch.Tensor, torch.Tensor]) -> None:
        out[1].resize_(()).fill_(2)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", failing)
    CACHE.clear()  # another test may have solved this very system
    rows = ordered.episodes
    with pytest.raises(ValueError, match=r"l2=3.0 is too small to solve 6 equations in float64"):
        make_reward("ease", rows, make_relevance("train", rows), k=2, l2=3.0)

    def not_positive(gram: torch.Tensor, *, out: tuple[torch.Tensor, torch.Tensor]) -> None:
        out[1].resize_(()).fill_(2)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", not_positive)
    with pytest.raises(ValueError, match=r"l2=3.0 is too small to solve 3 equations in float64"):
        make_reward("ease", twins, make_relevance("train", twins), k=2, l2=3.0)


def sessions(*train: list[int], valid: list[int], test: list[int]) -> Dataset:
    everyone = [*train, valid, test]
    split = [0] * len(train) + [1, 2]
    parts = []
    for code in range(3):
        pairs = [(u, i) for u, items in enumerate(everyone) for i in items if split[u] == code]
        parts.append(Interactions.from_pairs(*zip(*pairs, strict=True), len(everyone), ITEMS))
    return Dataset("shop", "sequential", *parts, time_ordered=True)


def test_of_rows_the_next_item_is_regressed_on_what_precedes() -> None:
    data = sessions([0, 1, 0, 2], [3, 4], [0, 2], valid=[0, 1], test=[1, 0])
    histories = np.zeros((7, ITEMS))
    # Train rows: 0 > 1, 0 1 > 0, 0 1 0 > 2, 3 > 4, 0 > 2; then 0 > 1 of validation and 1 > 0 of test.
    for row, weights in enumerate(
        [{0: 1.0}, {1: 1.0, 0: 1 / 2}, {0: 1 + 1 / 3, 1: 1 / 2}, {3: 1.0}, {0: 1.0}, {0: 1.0}, {1: 1.0}]
    ):
        histories[row, list(weights)] = list(weights.values())
    next_items = np.eye(ITEMS)[[1, 0, 2, 4, 2]]
    weights = np.stack([ridge(histories[:5], next_items[:, i], 2.0) for i in range(ITEMS)], 1)
    for mode in ("train", "validation"):
        rows = data.episodes
        relevance = make_relevance(mode, rows, selection_share=0.0)
        reward = make_reward("ease", rows, relevance, k=2, l2=2.0)
        assert predicted(reward, 7) == pytest.approx(histories @ weights, abs=1e-6)


@pytest.mark.parametrize("longer", [False, True], ids=["fewer rows than items", "more"])
def test_a_row_is_predicted_by_a_model_of_all_other_rows(longer: bool) -> None:
    data = sessions([0, 1, 0, 2], [3, 4], *([[1, 5, 3, 0]] if longer else []), valid=[0, 1], test=[1, 0])
    rows = data.episodes
    assert isinstance(rows, RowDataset)
    count = rows.rows_of("train").size
    assert (count > ITEMS) == longer
    histories = weighted(rows).toarray()
    next_items = np.eye(ITEMS)[rows.targets.items]
    reward = make_reward("ease", rows, make_relevance("train", rows), k=2, l2=2.0, leave_one_out=True)
    found = predicted(reward, rows.num_users)
    for row in range(rows.num_users):
        others = np.setdiff1d(np.arange(count), row)
        for item in range(ITEMS):
            known = histories[row] @ ridge(histories[others], next_items[others, item], 2.0)
            assert found[row, item] == pytest.approx(known, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("ease", {"leave_one_out": True}, "leave_one_out=True is for sequential .* 'holdout'"),
        ("ease", {"l2": 0.0}, "l2 of reward .ease. must be > 0, found 0.0"),
        ("ease", {"l2": float("nan")}, "l2 of reward .ease. must be a number, found nan"),
        ("gf_cf", {"rank": 0}, "rank of reward .gf_cf. must be >= 1"),
        ("gf_cf", {"alpha": -1.0}, "alpha of reward .gf_cf. must be >= 0"),
    ],
)
def test_settings_are_checked(five: Dataset, name: str, kwargs: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_reward(name, five, make_relevance("train", five), k=2, **kwargs)


@pytest.mark.parametrize(("users", "items", "side"), [(60, 70, 60), (72, 71, 71)])
def test_ease_refuses_a_set_that_does_not_fit_into_memory(
    users: int, items: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = Interactions.from_pairs([0, 1], [0, items - 1], users, items)
    none = Interactions.from_pairs([], [], users, items)
    dataset = Dataset("wide", "cf", wide, none, none, False)
    monkeypatch.setattr("refit_env.utils.memory.free_memory", lambda device: 10_000)
    CACHE.clear()
    with pytest.raises(ValueError, match=rf"a system of {side} equations in float\d\d needs \d+ bytes"):
        make_reward("ease", dataset, make_relevance("train", dataset))
    assert isinstance(make_reward("gf_cf", dataset, make_relevance("train", dataset), rank=1), GraphFilter)


def test_large_systems_of_items_are_solved_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset("synthetic")
    kinds = []

    def noted(rows: sp.csr_matrix, l2: float, device: torch.device, dtype: type) -> torch.Tensor:
        kinds.append(dtype)
        return torch.eye(rows.shape[1], dtype=torch.float64)

    monkeypatch.setattr("refit_env.utils.ridge.inverse_of", noted)
    for limit in (dataset.num_items, dataset.num_items - 1):
        CACHE.clear()
        monkeypatch.setattr("refit_env.utils.ridge.DOUBLE", limit)
        make_reward("ease", dataset, make_relevance("train", dataset), l2=3.0)
    CACHE.clear()
    assert kinds == [np.float64, np.float32]
