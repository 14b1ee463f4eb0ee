"""A fingerprint survives a round trip, and changes with any change of content."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refit_env.data import load_canonical, load_dataset, save_dataset
from refit_env.data.dataset import Dataset
from refit_env.data.interactions import Interactions


@pytest.fixture
def shop() -> Dataset:
    def split(users, items):
        return Interactions.from_pairs(users, items, num_users=3, num_items=5, timestamps=range(len(users)))

    train, valid, test = split([0, 0, 1, 2], [0, 1, 2, 4]), split([0, 1], [2, 3]), split([1, 2], [0, 1])
    return Dataset("shop", "cf", train, valid, test, time_ordered=True, social=np.array([[0, 1]], np.int32))


def test_a_round_trip_keeps_it(shop, tmp_path):
    assert load_canonical(save_dataset(shop, tmp_path / "other-name")).fingerprint == shop.fingerprint


def test_names_and_ids_are_not_part_of_it(shop):
    assert replace(shop, name="b", user_ids=np.array(["x", "y", "z"])).fingerprint == shop.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"task": "social"},
        {"time_ordered": False},
        {"social": None},
        {"social": np.array([[1, 0]], np.int32)},
        {"item_features": {"lat": np.arange(5.0)}},
    ],
)
def test_other_content_has_another_fingerprint(shop, change):
    assert replace(shop, **change).fingerprint != shop.fingerprint


def test_splits_are_part_of_it(shop):
    assert replace(shop, valid=shop.test, test=shop.valid).fingerprint != shop.fingerprint


def test_the_order_of_a_users_items_is_part_of_it(shop):
    train = replace(shop.train, items=np.array([1, 0, 2, 4], np.int32))
    assert replace(shop, train=train).fingerprint != shop.fingerprint


def test_rows_have_the_fingerprint_of_their_data_set():
    sessions = load_dataset("synthetic")
    assert sessions.episodes.fingerprint == sessions.fingerprint
    from refit_env.data.synthetic_sessions import synthesize_sessions

    source = synthesize_sessions()
    assert source.episodes.fingerprint == source.fingerprint != sessions.fingerprint
