"""Baselines of histories: what they read, and their scores against loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from agents.baselines import baseline
from agents.baselines.learning import ready
from refit_env.backbones.training_histories import TrainingHistories
from refit_env.data import Dataset, Interactions
from tests.agents.baselines.conftest import scores_of


@pytest.fixture
def shop() -> Dataset:
    """Two train sessions, one of validation and one of test."""
    sessions = [[4, 2, 4, 0, 3], [0, 1], [3, 1, 2], [1, 0]]

    def part(*chosen: int) -> Interactions:
        users = [s for s in chosen for _ in sessions[s]]
        return Interactions.from_pairs(users, [i for s in chosen for i in sessions[s]], 4, 5)

    return Dataset("shop", "sequential", part(0, 1), part(2), part(3), time_ordered=True)


@pytest.fixture
def ordered() -> Dataset:
    """Sets of the CF task in order of time."""
    train = Interactions.from_pairs([0, 0, 0, 0, 1, 1], [3, 0, 2, 1, 2, 4], 2, 5)
    valid = Interactions.from_pairs([0, 1], [4, 0], 2, 5)
    test = Interactions.from_pairs([1], [1], 2, 5)
    return Dataset("set", "cf", train, valid, test, time_ordered=True)


def built(name: str, data: Dataset, **settings: Any) -> Any:
    kind = baseline(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(kind.config_class(embedding=4, **settings)).build(data.episodes)  # type: ignore[attr-defined]


def test_histories_of_sets_hold_train_items_alone(ordered: Dataset) -> None:
    known = TrainingHistories.of(ordered, 2)
    assert known.history.tolist() == [[3, 5], [3, 0], [0, 2], [2, 5]]
    assert known.targets.tolist() == [0, 2, 1, 4] and known.sessions.tolist() == [0, 0, 0, 1]
    assert known.shown.tolist() == [[2, 1], [2, 4]] and known.owners.tolist() == [0, 1]


def test_histories_of_rows_are_the_rows(shop: Dataset) -> None:
    rows = shop.episodes
    known = TrainingHistories.of(rows, 2)
    assert known.history.tolist() == [[4, 5], [4, 2], [2, 4], [4, 0], [0, 5]]
    assert known.targets.tolist() == [2, 4, 0, 3, 1]
    assert known.shown.shape == (rows.num_users, 2) and known.owners.tolist() == [0, 0, 0, 0, 1, 2, 2, 3]


def test_windows_hold_each_train_event_as_a_target_once(shop: Dataset) -> None:
    for length in (1, 2, 4, 10):
        known = TrainingHistories.of(shop.episodes, length)
        model = built("gru4rec", shop, history=length)
        found = []
        for history, nexts in zip(model.inputs.tolist(), model.nexts.tolist(), strict=True):
            found += [(a, b) for a, b in zip(history, nexts, strict=True) if a < 5]
        pairs = [(4, 2), (2, 4), (4, 0), (0, 3), (0, 1)]
        assert sorted(found) == sorted(pairs), length
        assert len(known.windows()[0]) == len(model.inputs)


@pytest.mark.parametrize("name", ["gru4rec", "sasrec"])
def test_a_state_does_not_depend_on_what_follows(name: str, shop: Dataset) -> None:
    model = built(name, shop, history=4, dropout=0.0)
    ready(model)
    history = torch.tensor([[4, 2, 4, 0], [4, 2, 1, 3], [4, 2, 5, 5]])
    states = model.states(history)
    torch.testing.assert_close(states[0, :2], states[1, :2])
    torch.testing.assert_close(states[0, :2], states[2, :2])
    assert not torch.allclose(states[0, 2], states[1, 2])


@pytest.mark.parametrize("name", ["gru4rec", "sasrec"])
def test_scores_are_of_the_state_after_the_last_item(name: str, shop: Dataset) -> None:
    model = built(name, shop, history=4, dropout=0.0)
    ready(model)
    for row in range(shop.episodes.num_users):
        history = [item for item in model.shown[row].tolist() if item < 5]
        alone = model.states(torch.tensor([history]))[0, -1]
        torch.testing.assert_close(model.scores(torch.tensor([row]))[0], model.items.weight[:5] @ alone)


def test_the_loss_is_the_cross_entropy_at_each_place(shop: Dataset) -> None:
    model = built("gru4rec", shop, history=4, dropout=0.0)
    ids = torch.arange(model.num_examples)
    losses = []
    for history, nexts in zip(model.inputs, model.nexts, strict=True):
        for place in range(int((history < 5).sum())):
            logits = model.items.weight[:5] @ model.states(history[None])[0, place]
            losses.append(functional.cross_entropy(logits, nexts[place]))
    torch.testing.assert_close(model.loss(ids, "all"), torch.stack(losses).mean())


def test_sasrec_attends_as_its_equation_says(shop: Dataset) -> None:
    model = built("sasrec", shop, history=3, dropout=0.0, blocks=1, heads=1)
    ready(model)
    history = torch.tensor([[4, 2, 0]])
    block = model.encoder.blocks[0]
    x = model.items(history)[0] * 2.0 + model.encoder.places.weight  # sqrt(4) = 2
    q = block.query(block.before(x))
    k, v = block.pair(x).chunk(2, 1)
    attended = []
    for place in range(3):
        share = torch.softmax(q[place] @ k[: place + 1].T / 2.0, 0)
        attended.append(share @ v[: place + 1])
    x = x + block.out(torch.stack(attended))
    x = x + block.net(block.between(x))
    torch.testing.assert_close(model.states(history)[0], model.encoder.norm(x))


def test_markov_sums_shares_of_followers(shop: Dataset) -> None:
    sessions = [[4, 2, 4, 0, 3], [0, 1]]
    counts = np.zeros((5, 5))
    for session in sessions:
        for place, item in enumerate(session):
            for back in (1, 2):
                if place >= back:
                    counts[session[place - back], item] += 1 / back
    shares = counts / (counts.sum(1, keepdims=True) + 0.5)
    rows = shop.episodes
    scores = scores_of("markov", shop, reach=2, smoothing=0.5)
    for row in range(rows.num_users):
        history = rows.train.of(row)[::-1][:2]
        wanted = sum(shares[item] / back for back, item in enumerate(history, 1))
        np.testing.assert_allclose(scores[row], wanted, atol=1e-6)


def test_fpmc_scores_tastes_and_transitions(ordered: Dataset, shop: Dataset) -> None:
    model = built("fpmc", ordered)
    h, b = model.items.weight.chunk(2, 1)
    wanted = model.users.weight[0] @ h.T + model.lasts.weight[1] @ b.T  # user 0's last train item is 1
    torch.testing.assert_close(model.scores(torch.tensor([0]))[0], wanted)
    model = built("fpmc", shop)
    new = shop.episodes.rows_of("test")
    b = model.items.weight.chunk(2, 1)[1]
    torch.testing.assert_close(model.scores(torch.tensor(new))[0], model.lasts.weight[1] @ b.T)


def test_most_visited_counts_the_history(task_data: dict[str, Dataset]) -> None:
    data = task_data["poi"]
    scores = scores_of("most-visited", data, decay=0.0)
    rows = data.episodes
    for row in (0, 7, rows.num_users - 1):
        np.testing.assert_array_equal(scores[row], np.bincount(rows.train.of(row), minlength=data.num_items))


def test_nearest_places_count_by_distance(task_data: dict[str, Dataset]) -> None:
    data = task_data["poi"]
    rows = data.episodes
    features = data.item_features
    assert features is not None
    lat, lon = np.radians(features["lat"].astype(float)), np.radians(features["lon"].astype(float))

    def km(a: int, b: int) -> float:
        cosine = np.sin(lat[a]) * np.sin(lat[b]) + np.cos(lat[a]) * np.cos(lat[b]) * np.cos(lon[a] - lon[b])
        return float(6371.0088 * np.arccos(np.clip(cosine, -1, 1)))

    visits = np.bincount(rows.targets.items, minlength=data.num_items)  # type: ignore[attr-defined]
    scores = scores_of("nearest", data, scale=2.0, popularity=0.5)
    history = rows.train.of(5)[::-1]
    for place in range(0, data.num_items, 5):
        near = sum(1 / (back * (1 + km(item, place) / 2.0)) for back, item in enumerate(history, 1))
        assert scores[5, place] == pytest.approx(near * (visits[place] + 1) ** 0.5, rel=1e-3)
