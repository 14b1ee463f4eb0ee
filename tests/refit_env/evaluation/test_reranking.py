"""Post-hoc re-rankers: strength 0 is the model, more of it more of the goal, each against its equation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from refit_env.data import Dataset, load_dataset
from refit_env.errors import SettingError
from refit_env.evaluation.beyond_accuracy import SMOOTHING, beyond_accuracy
from refit_env.evaluation.catalogue import catalogue_of
from refit_env.evaluation.ranking import Evaluation, evaluate
from refit_env.evaluation.reranking import RERANKERS, option_names, reranked

GOALS = {
    "popularity_penalty": ("novelty@20", 1, 0.3),
    "popularity_power": ("novelty@20", 1, 0.5),
    "mmr": ("ild@20", 1, 2.0),
    "xquad": ("aplt@20", 1, 3.0),
    "calibrated": ("calibration@20", -1, 3.0),
    "cover": ("coverage@20", 1, 1.0),
    "spread": ("gini@20", -1, 1.0),
}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("synthetic")


@pytest.fixture(scope="module")
def score(data: Dataset) -> Callable[[Tensor], Tensor]:
    """Co-occurrence with the user's items, with a little noise so that no two scores are equal."""
    rows = torch.from_numpy(data.train.csr.toarray()).float()
    noise = torch.rand(rows.shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    table = (rows @ (rows.T @ rows)) / 100 + noise
    return lambda users: table[users]


def measured(data: Dataset, score: Callable[[Tensor], Tensor]) -> Evaluation:
    return evaluate(score, data)


def test_every_reranker_has_a_goal_here() -> None:
    assert set(GOALS) == set(RERANKERS)
    assert all("strength" in option_names(name) for name in RERANKERS)


@pytest.mark.parametrize("name", RERANKERS)
def test_strength_zero_gives_the_lists_of_the_model(
    name: str, data: Dataset, score: Callable[[Tensor], Tensor]
) -> None:
    plain, other = measured(data, score), measured(data, reranked(name, score, data, strength=0.0))
    assert (plain.lists == other.lists).all()


@pytest.mark.parametrize("name", RERANKERS)
def test_strength_raises_the_goal_and_lists_hold_no_seen_item(
    name: str, data: Dataset, score: Callable[[Tensor], Tensor]
) -> None:
    goal, sign, strength = GOALS[name]
    plain, other = measured(data, score), measured(data, reranked(name, score, data, strength=strength))
    before, after = (beyond_accuracy(found, data).means[goal] for found in (plain, other))
    assert sign * (after - before) > 1e-3
    seen = data.masked("test")
    for user, row in zip(other.users, other.lists, strict=True):
        assert len(set(row)) == 20 and not set(row) & set(seen[user].indices)


def test_mmr_follows_its_equation(data: Dataset, score: Callable[[Tensor], Tensor]) -> None:
    vectors, users = catalogue_of(data).vectors, torch.tensor([3])
    seen = data.masked("test")[3].indices
    plain = score(users)[0].numpy().copy()
    plain[seen] = -np.inf
    candidates = np.argsort(-plain, kind="stable")[:30]
    low, high = plain[candidates].min(), plain[candidates].max()
    relevance = (plain - low) / (high - low)
    chosen: list[int] = []
    for _ in range(20):
        near = {
            i: max((float(vectors[i] @ vectors[j]) for j in chosen), default=0.0)
            for i in candidates
            if i not in chosen
        }
        chosen.append(max(near, key=lambda i: relevance[i] - 0.7 * max(near[i], 0.0)))
    found = reranked("mmr", score, data, strength=0.7, candidates=30)(users)[0]
    assert found.topk(20).indices.tolist() == chosen


def test_calibration_chooses_the_smallest_divergence_next(
    data: Dataset, score: Callable[[Tensor], Tensor]
) -> None:
    known, user = catalogue_of(data), 5
    found = reranked("calibrated", score, data, strength=1e6, candidates=40)(torch.tensor([user]))[0]
    first, second = found.topk(2).indices.tolist()
    plain = score(torch.tensor([user]))[0].clone()
    plain[data.masked("test")[user].indices] = -torch.inf
    wanted = known.taste[user].astype(np.float64)

    def divergence(items: list[int]) -> float:
        share = (1 - SMOOTHING) * known.groups[items].mean(0) + SMOOTHING * wanted
        return float(-(wanted * np.log(np.maximum(share, 1e-12))).sum())

    best = min(divergence([first, i]) for i in plain.topk(40).indices.tolist() if i != first)
    assert divergence([first, second]) == pytest.approx(best, abs=1e-6)


def test_cover_uncovers_nothing_and_changes_the_last_places_alone(
    data: Dataset, score: Callable[[Tensor], Tensor]
) -> None:
    plain, other = (
        measured(data, score),
        measured(data, reranked("cover", score, data, slots=3, strength=1.0)),
    )
    assert (plain.lists[:, :17] == other.lists[:, :17]).all()
    assert set(plain.lists.ravel()) <= set(other.lists.ravel())


def test_spread_counts_the_lists_before(data: Dataset) -> None:
    flat = torch.zeros(data.num_users, data.num_items)
    flat[:, :40] = 1e-3  # all users like the same forty items, by less than a list counts
    found = measured(data, reranked("spread", lambda users: flat[users], data, strength=1.0))
    counts = np.bincount(found.lists.ravel(), minlength=data.num_items)
    assert beyond_accuracy(found, data).means["coverage@20"] > 0.9 and counts.max() < data.num_users / 2


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("mrm", {}, "unknown re-ranker 'mrm'. Did you mean 'mmr'?"),
        ("mmr", {"strenght": 1.0}, "strenght is no setting of re-ranker 'mmr'. Did you mean 'strength'?"),
        ("mmr", {"strength": -1.0}, "strength must be >= 0, found -1.0"),
        ("cover", {"strength": 2.0}, "strength must be >= 0 and <= 1, found 2.0"),
        ("mmr", {"candidates": 0}, "candidates must be"),
    ],
)
def test_mistakes_are_named(
    name: str, options: dict[str, float], said: str, data: Dataset, score: Callable[[Tensor], Tensor]
) -> None:
    with pytest.raises((ValueError, SettingError)) as error:
        reranked(name, score, data, **options)
    assert said in str(error.value)
