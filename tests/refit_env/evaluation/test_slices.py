"""Tests of cold users, popular items and the tail, by hand and by separate evaluations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from refit_env.data import Dataset, load_dataset
from refit_env.data.interactions import Interactions
from refit_env.evaluation.ranking import evaluate
from refit_env.evaluation.slices import popular_items, slices


def tiny() -> Dataset:
    """Return two users, six items; user 0 has five train items, user 1 one; item 0 is the most popular."""
    train = Interactions.from_pairs([0, 0, 0, 0, 1], [0, 1, 2, 3, 0], 2, 6)
    none = Interactions.from_pairs([], [], 2, 6)
    return Dataset("tiny", "cf", train, none, Interactions.from_pairs([0, 1, 1], [4, 1, 5], 2, 6), False)


def test_popular_items_are_the_most_interacted_with() -> None:
    assert np.flatnonzero(popular_items(tiny(), 0.2)).tolist() == [0]
    assert np.flatnonzero(popular_items(tiny(), 0.5)).tolist() == [0, 1, 2]


def test_a_small_case_by_hand() -> None:
    data = tiny()
    scores = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.9, 0.8], [0.0, 0.9, 0.5, 0.4, 0.3, 0.2]])
    found = evaluate(lambda users: scores[users], data, ks=(1,))
    parts = slices(found, data)
    assert parts["cold"].users.tolist() == [0, 1]  # four and one train items
    assert parts["popular"].users.tolist() == []  # item 0 is no user's test item
    assert parts["popular"].means() == {}
    assert parts["tail"].users.tolist() == [0, 1]
    assert parts["tail"].per_user["recall@1"].tolist() == [1.0, 0.5]


def test_cold_is_fewer_than_five() -> None:
    data = tiny()
    more = Interactions.from_pairs([0] * 5 + [1] * 4, [0, 1, 2, 3, 5, 0, 2, 3, 4], 2, 6)
    data = replace(data, train=more)
    found = evaluate(lambda users: torch.zeros(len(users), 6), data, ks=(1,))
    assert slices(found, data)["cold"].users.tolist() == [1]


@pytest.mark.parametrize("name", ["synthetic"])
def test_item_slices_equal_an_evaluation_of_that_truth_alone(name: str) -> None:
    data = load_dataset(name)
    noise = torch.randn(data.num_users, data.num_items, generator=torch.Generator().manual_seed(0))
    found = evaluate(lambda users: noise[users], data)
    head = popular_items(data)
    parts = slices(found, data)
    for part, items in (("popular", head), ("tail", ~head)):
        alone = evaluate(
            lambda users: noise[users], replace(data, test=data.test.select(items[data.test.items]))
        )
        assert np.array_equal(parts[part].users, alone.users)
        for metric, values in alone.per_user.items():
            np.testing.assert_allclose(parts[part].per_user[metric], values)


def test_recall_of_the_whole_is_between_its_parts() -> None:
    data = load_dataset("synthetic")
    noise = torch.randn(data.num_users, data.num_items, generator=torch.Generator().manual_seed(1))
    found = evaluate(lambda users: noise[users], data)
    parts = slices(found, data)
    both = np.intersect1d(parts["popular"].users, parts["tail"].users)
    at = {name: np.searchsorted(parts[name].users, both) for name in ("popular", "tail")}
    pieces = [parts[name].per_user["recall@20"][at[name]] for name in at]
    whole = found.per_user["recall@20"][np.searchsorted(found.users, both)]
    assert (whole >= np.minimum(*pieces) - 1e-9).all() and (whole <= np.maximum(*pieces) + 1e-9).all()
