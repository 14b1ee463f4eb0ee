"""Rewards by groups, vectors, texts and popularity of the catalogue, computed by hand on five users.

Lists of K = 2 as in ``test_golden``; items 0 and 1 are of genre a, 2 and 3 of b, 4 of both, 5 of c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log, sqrt

import numpy as np
import pytest
import torch

from refit_env.data import Dataset, load_dataset
from refit_env.evaluation.beyond_accuracy import beyond_accuracy
from refit_env.evaluation.ranking import evaluate
from refit_env.rewards import Reward, make_relevance, make_reward

SCORES = torch.tensor(
    [
        [0.9, 0.1, 0.8, 0.0, 0.0, 0.0],
        [0.0, 0.5, 0.0, 0.9, 0.0, 0.2],
        [0.0, 0.0, 0.3, 0.0, 0.3, 0.3],
        [0.1, 0.0, 0.0, 0.9, 0.8, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ]
)
USERS = torch.arange(5)
LISTS = torch.tensor([[0, 2], [3, 1], [2, 4], [3, 4], [0, 1]])
GENRES = np.array(["a", "a", "b", "b", "a|b", "c"])
TITLES = np.array(["Red fox", "red Dog", "blue dog", "Blue!", "fox", "alone"])


@pytest.fixture
def synthetic() -> Dataset:
    return load_dataset("synthetic")


@pytest.fixture
def make(five: Dataset) -> Callable[..., Reward]:
    def made(spec: str, features: dict[str, np.ndarray] | None = None, **kwargs: object) -> Reward:
        data = replace(five, item_features={"genres": GENRES} if features is None else features)
        return make_reward(spec, data, make_relevance("train", data), k=2, **kwargs)

    return made


def check(reward: Reward, expected: list[float]) -> None:
    found = reward(SCORES, USERS)
    assert found.lists.tolist() == LISTS.tolist()
    assert found.value.tolist() == pytest.approx(expected, abs=1e-6)
    assert list(found.terms) == list(reward.term_names)


def test_average_precision(make: Callable[..., Reward]) -> None:
    # hits: 0 at rank 1 of 2; 1 at rank 2 of 3 (precision 1/2); 2 at rank 1 of 2; both of 2; none
    check(make("average_precision"), [1 / 2, 1 / 4, 1 / 2, 1.0, 0.0])


def test_calibration(make: Callable[..., Reward]) -> None:
    # user 0: taste all a, list half a; 1: taste 2/3 a, 1/3 b, list half and half; 2: taste half and half,
    # list 1/4 a; 3: the list is the taste; 4: taste all b, list all a.
    one = 2 / 3 * log((2 / 3) / (0.99 / 2 + 0.01 * 2 / 3)) + 1 / 3 * log((1 / 3) / (0.99 / 2 + 0.01 / 3))
    two = 1 / 2 * log(0.5 / (0.99 / 4 + 0.005)) + 1 / 2 * log(0.5 / (0.99 * 3 / 4 + 0.005))
    check(make("calibration"), [-log(1 / 0.505), -one, -two, 0.0, -log(100)])


def test_serendipity(make: Callable[..., Reward]) -> None:
    # by popularity: 1, 0, 2, 3, 4, 5. Gains: 0 at rank 1 was 2nd: 1/6; 1 at rank 2 was 1st: 0; 2 at 1 was
    # 3rd: 2/6; 3 at 1 was 4th and 4 at 2 was 5th: 3/6 each.
    check(make("serendipity"), [1 / 12, 0.0, 1 / 6, 1 / 2, 0.0])


def test_exposure_fairness(make: Callable[..., Reward]) -> None:
    reward = make("exposure_fairness")
    assert reward.uses_lists
    reward.set_lists(LISTS)
    # a and b are shown 5 times each among 12.5 candidates (share .4), c never among 5: the mean is .8 / 3
    check(reward, [-0.5] * 5)
    assert reward(torch.eye(6)[[5, 5]], USERS[:2]).value.tolist() == pytest.approx([(1 - 0.5) / 2] * 2)
    tail = make("exposure_fairness", groups="popularity")
    tail.set_lists(torch.tensor([[0, 1]] * 5))  # the head alone
    gains = tail.term_gains(USERS[:1])["exposure_fairness"][0]  # type: ignore[attr-defined]
    assert gains[1] == -1.0 and gains[5] == 1.0  # shares 2 m and 0: 1 - 2 and 1 - 0


def test_what_an_item_adds_to_the_diversity_of_the_present_list(make: Callable[..., Reward]) -> None:
    reward, near = make("marginal_diversity"), 1 - 1 / sqrt(2)
    assert reward.uses_lists and reward.lists_read(USERS[[3, 1, 3]]).tolist() == [1, 3]  # type: ignore[union-attr]
    reward.set_lists(LISTS)
    check(reward, [1.0, 1.0, near, near, 0.0])  # of the present lists: their diversity
    gains = reward.term_gains(USERS[:1])["marginal_diversity"][0]  # type: ignore[attr-defined]
    # the list is 0 (a) and 2 (b): of 0 the other item is 2; 1 is a, thus far from 2 alone; 5 is far from both
    assert gains.tolist() == pytest.approx([1.0, 0.5, 1.0, 0.5, near, 1.0])


def test_what_an_item_adds_to_the_calibration_of_the_present_list(make: Callable[..., Reward]) -> None:
    reward = make("marginal_calibration")
    reward.set_lists(LISTS)
    gains = reward.term_gains(USERS[[0, 4]])["marginal_calibration"]  # type: ignore[attr-defined]
    # user 0: taste all a, list half a; user 4: taste all b, list all a
    a, b = 2 * log(1 + 0.99 / (2 * 0.505)), 2 * log(1 + 0.99 / (2 * 0.01))
    assert gains[0].tolist() == pytest.approx([a, a, 0.0, 0.0, a / 2, 0.0])
    assert gains[1].tolist() == pytest.approx([0.0, 0.0, b, b, b / 2, 0.0])


@pytest.mark.parametrize(
    ("name", "whole", "kwargs"),
    [("marginal_diversity", "diversity", {"by": "catalogue"}), ("marginal_calibration", "calibration", {})],
)
def test_an_exchange_that_gains_most_raises_the_whole_list(
    name: str, whole: str, kwargs: dict[str, str], synthetic: Dataset
) -> None:
    relevance, users = make_relevance("train", synthetic), torch.arange(64)
    scores = torch.rand(64, synthetic.num_items, generator=torch.Generator().manual_seed(0))
    marginal, value = (
        make_reward(name, synthetic, relevance),
        make_reward(whole, synthetic, relevance, **kwargs),
    )  # type: ignore[arg-type]
    marginal.refresh(lambda some: scores[some % 64])
    before = value(scores, users)
    gains = marginal.term_gains(users)[name]  # type: ignore[attr-defined]
    inside = torch.zeros_like(gains, dtype=torch.bool).scatter_(1, before.lists, True)
    worst = gains.masked_fill(~inside, torch.inf).argmin(1, keepdim=True)
    best = gains.masked_fill(inside, -torch.inf).argmax(1, keepdim=True)
    lists = torch.where(before.lists == worst, best, before.lists)
    assert bool((value(scores, users, lists).value > before.value).all())


def test_diversity_by_categories_and_by_text(make: Callable[..., Reward]) -> None:
    near = 1 - 1 / sqrt(2)
    check(make("diversity", by="catalogue"), [1.0, 1.0, near, near, 0.0])
    check(make("diversity", {"title": TITLES}, by="text"), [1.0, 1.0, 1.0, 1.0, 0.5])
    with pytest.raises(
        ValueError, match=r"items of 'table' have no texts \(lat\): items.parquet needs a column"
    ):
        make("diversity", {"lat": np.zeros(6)}, by="text")
    with pytest.raises(
        ValueError, match="by of reward 'diversity' must be one of interactions, catalogue, text"
    ):
        make("diversity", by="texts")


def test_rewards_are_the_metrics_of_their_names(synthetic: Dataset) -> None:
    """On the lists of one model, with what a list may hold as at evaluation."""
    scores = torch.rand(synthetic.num_users, synthetic.num_items, generator=torch.Generator().manual_seed(0))
    found = evaluate(lambda users: scores[users], synthetic, "valid")
    means = beyond_accuracy(found, synthetic, "valid", ["calibration", "ild"])
    relevance = make_relevance("none", synthetic)
    users = torch.from_numpy(found.users)
    for name, metric, sign, kwargs in (
        ("calibration", "calibration@20", -1, {}),
        ("diversity", "ild@20", 1, {"by": "catalogue"}),
    ):
        value = make_reward(name, synthetic, relevance, k=20, **kwargs)(scores[users], users).value  # type: ignore[arg-type]
        assert float(value.mean()) == pytest.approx(sign * means.means[metric], abs=1e-5)


def test_learned_predicts_the_feedback_of_other_users(synthetic: Dataset) -> None:
    relevance = make_relevance("recent", synthetic)
    reward = make_reward("learned", synthetic, relevance, k=10, members=2, epochs=10)
    apart = reward.selecting
    assert apart is not None and 0 < apart.size < synthetic.num_users
    rewarded = make_relevance("validation", synthetic).users
    assert not set(apart.tolist()) & set(rewarded.tolist())
    users = torch.from_numpy(np.intersect1d(apart, np.unique(synthetic.valid.users)))
    mean, std = reward.moments(users)  # type: ignore[attr-defined]
    assert float(mean.sum(1).mean()) == pytest.approx(1.0, abs=1e-4) and float(std.min()) >= 0
    seen = torch.from_numpy(synthetic.train.csr[users.numpy()].toarray() > 0)
    truth = torch.from_numpy(synthetic.valid.csr[users.numpy()].toarray() > 0) & ~seen
    popularity = torch.from_numpy(np.bincount(synthetic.train.items, minlength=synthetic.num_items)).float()

    def hits(scores: torch.Tensor) -> float:
        lists = scores.masked_fill(seen, -1e9).topk(10, 1).indices
        return float(truth.gather(1, lists).float().mean())

    assert hits(mean) > 1.2 * hits(popularity.expand_as(mean))
    bold = make_reward("learned", synthetic, relevance, k=10, members=2, epochs=10, penalty=0.0)
    torch.testing.assert_close(bold.predict(users) - reward.predict(users), std)  # type: ignore[attr-defined]
    again = make_reward("learned", synthetic, relevance, k=10, members=2, epochs=10)
    assert torch.equal(again.predict(users), reward.predict(users))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="members of reward 'learned' must be >= 1"):
        make_reward("learned", synthetic, relevance, members=0)


def test_learned_is_fitted_where_the_caller_needs_no_gradients(synthetic: Dataset) -> None:
    relevance, users = make_relevance("recent", synthetic), torch.arange(5)
    with torch.no_grad():
        inside = make_reward("learned", synthetic, relevance, k=10, members=1, epochs=1, seed=7)
    predicted = inside.predict(users)  # type: ignore[attr-defined]
    assert torch.isfinite(predicted).all() and not predicted.requires_grad
