"""The visible, relevant and masked items of each mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refit_env.data import load_dataset
from refit_env.data.dataset import Dataset
from refit_env.data.interactions import Interactions
from refit_env.rewards import MODES, Relevance, make_relevance, make_reward, reward_names

tables = hnp.arrays(
    np.int8, st.tuples(st.integers(2, 6), st.integers(4, 9)), elements=st.sampled_from([-1, 0, 0, 0, 1, 2])
)
UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
many = settings(max_examples=60, suppress_health_check=UNCHECKED)


def relevance_or_skip(mode: str, dataset: Dataset, **kwargs: float) -> Relevance:
    """The relevance, or the next example if it leaves no user."""
    try:
        return make_relevance(mode, dataset, **kwargs)  # type: ignore[arg-type]
    except ValueError as error:
        assume("leaves no user" not in str(error))
        raise


@given(table=tables, fraction=st.sampled_from([0.1, 0.2, 0.5, 0.9]), seed=st.integers(0, 3))
@pytest.mark.parametrize("mode", MODES)
@many
def test_the_table_of_modes(
    make_dataset: Callable[..., Dataset], mode: str, table: np.ndarray, fraction: float, seed: int
) -> None:
    relevance = relevance_or_skip(mode, make_dataset(table), fraction=fraction, seed=seed)
    train, visible, relevant = table == 0, relevance.visible.toarray() > 0, relevance.relevant.toarray() > 0
    users = [u for u in range(len(table)) if visible[u].any() and (relevant[u].any() or mode == "none")]
    assert relevance.users.tolist() == users and relevance.users.dtype == np.int64
    if mode == "train":
        assert np.array_equal(visible, train) and np.array_equal(relevant, train)
        assert relevance.hidden is None
        return
    assert np.array_equal(relevance.hidden.toarray() > 0, visible)
    assert not (visible & relevant).any()
    if mode in ("validation", "none"):
        own = np.ones(len(table), bool)
        if relevance.selecting is not None:
            own[relevance.selecting] = False
        allowed = own[:, None] & (mode != "none")
        assert np.array_equal(visible, train) and np.array_equal(relevant, (table == 1) & allowed)
        return
    assert np.array_equal(visible | relevant, train)
    for u, count in enumerate(train.sum(1)):
        assert relevant[u].sum() == (0 if count < 2 else min(count - 1, max(1, round(fraction * int(count)))))
        if mode == "recent" and relevant[u].any():  # in these tables time runs with the ids
            assert np.flatnonzero(visible[u]).max() < np.flatnonzero(relevant[u]).min()


def test_recent_uses_the_order_of_the_rows() -> None:
    train = Interactions.from_pairs([0] * 5, [4, 1, 3, 0, 2], num_users=1, num_items=5)
    none = Interactions.from_pairs(np.empty(0, int), np.empty(0, int), num_users=1, num_items=5)
    relevance = make_relevance("recent", Dataset("t", "cf", train, none, none, True), fraction=0.4)
    assert relevance.relevant.indices.tolist() == [0, 2]
    assert relevance.visible.indices.tolist() == [1, 3, 4]


def test_a_repeated_item_that_is_shown_is_not_relevant() -> None:
    train = Interactions.from_pairs([0] * 5, [1, 2, 3, 2, 4], num_users=1, num_items=5)
    none = Interactions.from_pairs(np.empty(0, int), np.empty(0, int), num_users=1, num_items=5)
    relevance = make_relevance("recent", Dataset("t", "social", train, none, none, True), fraction=0.4)
    assert relevance.relevant.indices.tolist() == [4]


def test_holdout_is_a_function_of_its_seed(five: Dataset) -> None:
    wide = Dataset(
        "w", "cf", Interactions.from_pairs([0] * 50, range(50), 1, 50), five.valid, five.test, False
    )
    draws = {
        seed: [make_relevance("holdout", wide, seed=seed).relevant.indices.tolist() for _ in range(2)]
        for seed in (0, 1)
    }
    assert all(first == second for first, second in draws.values())
    assert draws[0] != draws[1]
    # Hidden are those with the largest draws of the seed's generator, on any platform.
    largest = np.argsort(np.random.default_rng(0).random(50))[-10:]
    assert draws[0][0] == sorted(largest.tolist())


def test_holdout_hides_each_item_alike() -> None:
    none = Interactions.from_pairs(np.empty(0, int), np.empty(0, int), 2000, 5)
    train = Interactions.from_pairs(np.repeat(np.arange(2000), 5), np.tile(np.arange(5), 2000), 2000, 5)
    hidden = make_relevance("holdout", Dataset("u", "cf", train, none, none, False)).relevant
    counts = np.asarray(hidden.sum(0)).ravel()  # one of five for each of 2000 users: 400 expected, s.d. 18
    assert np.abs(counts - 400).max() < 80


@pytest.mark.parametrize(
    ("mode", "kwargs", "message"),
    [
        ("recnt", {}, "Did you mean 'recent'"),
        ("holdout", {"fraction": 0.0}, "fraction must be > 0 and < 1"),
        ("holdout", {"fraction": 1.0}, "fraction must be > 0 and < 1"),
        ("holdout", {"fraction": float("nan")}, "fraction must be a number > 0 and < 1"),
        ("holdout", {"seed": -1}, "seed must be >= 0"),
        ("validation", {}, "leaves no user"),
        ("validation", {"selection_share": 1.0}, "selection_share must be >= 0 and < 1, found 1.0"),
    ],
)
def test_mistakes_are_named(five: Dataset, mode: str, kwargs: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_relevance(mode, five, **kwargs)  # type: ignore[arg-type]


def test_recent_without_time_suggests_holdout(make_dataset: Callable[..., Dataset]) -> None:
    with pytest.raises(ValueError, match="relevance='holdout'"):
        make_relevance("recent", make_dataset(np.zeros((2, 4), np.int8), time_ordered=False))


@dataclass(frozen=True, eq=False)
class Sealed(Dataset):
    """A data set whose test items cannot be read."""

    def __getattribute__(self, name: str) -> object:
        if name == "test":
            raise AssertionError("a reward read the test items")
        return super().__getattribute__(name)


@given(table=tables, other=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("neighbor_relevance", [None, "train", "holdout", "recent", "validation"])
@settings(parent=many, max_examples=6)
def test_test_items_are_never_visible_to_a_reward(
    make_dataset: Callable[..., Dataset],
    model_for: Callable[[Dataset], Path],
    mode: str,
    neighbor_relevance: str | None,
    table: np.ndarray,
    other: int,
) -> None:
    """Rewards do not depend on the test items, and do not read them."""
    dataset = make_dataset(table)
    relevance = relevance_or_skip(mode, dataset)
    racs: dict[str, object] = {}
    if mode != "none":
        racs = {"neighbor_relevance": neighbor_relevance, "neighbors": 2}
    if neighbor_relevance is not None:
        relevance_or_skip(neighbor_relevance, dataset)
    rng = np.random.default_rng(other)
    num_users, num_items = table.shape
    pairs = rng.integers(0, [[num_users], [num_items]], (2, 5))
    moved = Interactions.from_pairs(pairs[0], pairs[1], num_users, num_items)
    parts = (dataset.name, dataset.task, dataset.train, dataset.valid)
    same = dataset.fingerprint  # stated, because its computation reads the test items
    twins = [dataset, *(kind(*parts, moved, True, origin=same) for kind in (Dataset, Sealed))]
    scores = torch.from_numpy(rng.random((len(relevance.users), num_items)))
    users = torch.from_numpy(relevance.users)
    names = reward_names(mode, rows=False, dislikes=False, outside=False)
    specs = [{name: 1.0 for name in names if name != "learned"}]  # it needs validation items of several users
    for variant in ("target_list", "neighbor_lists"):
        if racs:
            racs["variant"] = variant
        given_ = [
            make_reward(
                spec,
                twin,
                make_relevance(mode, twin),
                k=2,
                model=model_for(dataset),
                **racs,
            )
            for twin in twins
            for spec in specs
        ]
        first, *others = [reward(scores, users) for reward in given_]
        for other in others:
            assert torch.equal(first.value, other.value) and first.terms.keys() == other.terms.keys()
            assert all(torch.equal(first.terms[name], other.terms[name]) for name in first.terms)


def test_without_relevant_items_only_rewards_without_labels_work() -> None:
    data = load_dataset("synthetic")
    relevance = make_relevance("none", data)
    users = torch.from_numpy(relevance.users[:20])
    scores = torch.rand(20, data.num_items, generator=torch.Generator().manual_seed(0))
    for name in ("ease", "gf_cf", "novelty", "long_tail", "coverage", "diversity"):
        assert name in reward_names("none")
        assert bool(torch.isfinite(make_reward(name, data, relevance)(scores, users).value).all()), name
    refused = set(reward_names(rows=False, dislikes=False, outside=False)) - set(reward_names("none"))
    assert {"racs", "ndcg", "recall", "r_ra", "r_cos", "log_rank", "unbiased_hits"} <= refused
    for name in refused:
        with pytest.raises(ValueError, match="no item is: use 'holdout'"):
            make_reward(name, data, relevance)
    with pytest.raises(ValueError, match=r"neighbor_relevance of reward .racs. must be one of"):
        make_reward("racs", data, make_relevance("holdout", data), neighbor_relevance="none")


def test_the_model_reads_the_whole_input_of_the_recommender() -> None:
    data = load_dataset("synthetic")
    env = gym.make("ReFiT-Synthetic-v0", reward="ease", relevance="none")
    _, info = env.reset(seed=3, options={"user": 5})
    assert info["user"] == 5
    problem = env.unwrapped.problem  # type: ignore[attr-defined]
    assert problem.relevance.visible[5].nnz == data.train.counts[5]
    while not env.step(env.action_space.sample())[2]:
        pass
