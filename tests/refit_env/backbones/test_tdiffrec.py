"""Tests of T-DiffRec: weights by hand, by time, in training and at the start of chains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import refit_env  # noqa: F401  # registers the ids
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer
from refit_env.backbones import backbone_for, make_backbone, published_config
from refit_env.backbones.tdiffrec import TDiffRec, TDiffRecConfig
from refit_env.data import Dataset, Interactions, synthesize
from refit_env.policy import DiffusionPolicy

CONFIG = TDiffRecConfig(w_min=0.25, w_max=1.0)
TINY = {"hidden": (4,), "num_steps": 4, "w_min": 0.25}


def dataset(users: list[int], items: list[int], num_users: int = 3) -> Dataset:
    rows = Interactions.from_pairs(users, items, num_users=num_users, num_items=6)
    return Dataset("toy", "cf", rows, rows, rows, time_ordered=True)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthesize(num_users=40, num_items=30)


def test_weights_rise_in_order_of_time_not_of_ids() -> None:
    rows = TDiffRec.rows(dataset([0, 0, 0, 0, 2], [5, 1, 3, 0, 4]), CONFIG).toarray()
    np.testing.assert_allclose(rows[0], [1.0, 0.5, 0, 0.75, 0, 0.25])
    assert not rows[1].any()  # a user without items
    np.testing.assert_allclose(rows[2], [0, 0, 0, 0, 0.25, 0])  # a single item has w_min, as published


def test_a_repeated_item_has_the_weight_of_its_latest_visit() -> None:
    rows = TDiffRec.rows(dataset([1, 1, 1], [2, 4, 2]), CONFIG).toarray()
    np.testing.assert_allclose(rows[1], [0, 0, 1.0, 0, 0.625, 0])


def test_an_empty_data_set_has_empty_rows() -> None:
    assert TDiffRec.rows(dataset([], []), CONFIG).nnz == 0


def test_the_newest_item_has_the_largest_weight_in_real_rows(data: Dataset) -> None:
    rows = TDiffRec.rows(data, CONFIG)
    for user in range(data.num_users):
        items = data.train.of(user)
        expected = np.linspace(0.25, 1.0, len(items))
        np.testing.assert_allclose(rows[user].toarray()[0, items], expected, rtol=1e-6)


def test_training_and_evaluation_use_weighted_rows(data: Dataset) -> None:
    model = backbone_for(data, "t-diffrec", TINY, seed=0)
    expected = TDiffRec.rows(data, model.config).toarray()
    trainer = Pretrainer(data, model, PretrainConfig(epochs=1), device="cpu")
    users = torch.arange(data.num_users)
    assert np.array_equal(trainer.examples.shown(users).numpy(), expected)
    assert np.array_equal(trainer.examples.target(users).numpy(), expected)
    assert np.array_equal(model.shown(data, "cpu")(users).numpy(), expected)


def test_an_episode_starts_from_the_weighted_visible_row(data: Dataset) -> None:
    env = gym.make("ReFiT-Custom-v0", data=data, backbone="t-diffrec", relevance="recent", num_steps=2)
    observation, info = env.reset(seed=0)
    items = data.train.of(info["user"])
    hidden = max(1, round(0.2 * len(items)))
    row = observation["u"]
    assert not row[items[-hidden:]].any()
    np.testing.assert_allclose(row[items[:-hidden]], np.linspace(0.5, 1.0, len(items) - hidden), rtol=1e-6)
    assert "history" not in observation


def test_a_checkpoint_stores_the_weights(data: Dataset, tmp_path: Path) -> None:
    policy = DiffusionPolicy(backbone_for(data, "t-diffrec", TINY, seed=0), 2)
    policy.save(tmp_path, data)
    again = DiffusionPolicy.load(tmp_path)
    assert again.backbone.config == TDiffRecConfig(**{**vars(policy.backbone.config)})
    users = torch.arange(3)
    assert torch.equal(again.scorer(data)(users), policy.scorer(data)(users))


def test_refusals_and_published_settings(data: Dataset) -> None:
    with pytest.raises(ValueError, match="not sorted by time"):
        TDiffRec.rows(replace(data, time_ordered=False), CONFIG)
    with pytest.raises(ValueError, match="w_min must be > 0 and <= 1, found 0"):
        make_backbone("t-diffrec", 5, {"w_min": 0.0})
    with pytest.raises(ValueError, match=r"w_min must be <= w_max=0\.5, found 0\.6"):
        make_backbone("t-diffrec", 5, {"w_min": 0.6, "w_max": 0.5})
    assert published_config("t-diffrec", "amazon").w_min == 0.1
    assert published_config("t-diffrec", "yelp2018").hidden == (1000,)
