"""Tests of the gold reward: the true tastes are those that generated the data."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

import refit_env
from refit_env.data import Dataset, synthesize
from refit_env.data.synthetic import true_tastes
from refit_env.rewards import make_relevance, make_reward

GOLD = "refit_env.rewards.gold:Gold"


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthesize(seed=0)


def test_the_test_items_are_likely_under_the_true_tastes(data: Dataset) -> None:
    """The mean log-probability of test items is above that of any other user's taste."""
    tastes = true_tastes(data)
    assert tastes is not None
    own = np.log(tastes[data.test.users, data.test.items]).mean()
    others = np.log(np.roll(tastes, 1, 0)[data.test.users, data.test.items]).mean()
    popular = np.bincount(data.train.items, minlength=data.num_items) + 1.0
    by_popularity = np.log((popular / popular.sum())[data.test.items]).mean()
    assert own > by_popularity + 0.3
    assert own > others + 0.5


def test_the_ideal_list_has_one_and_a_worse_list_less(data: Dataset) -> None:
    tastes = true_tastes(data)
    assert tastes is not None
    reward = make_reward(GOLD, data, make_relevance("none", data), k=5)
    users = torch.arange(4)
    scores = torch.as_tensor(tastes[:4], dtype=torch.float32)
    known = torch.as_tensor((data.train.csr + data.valid.csr)[:4].toarray()) > 0
    assert reward(scores.masked_fill(known, -1.0), users).value == pytest.approx([1.0] * 4)
    assert torch.all(reward(-scores, users).value < 0.5)


def test_a_weight_of_zero_makes_it_a_term_without_reward() -> None:
    env = gym.make("ReFiT-Synthetic-v0", backbone="linear", reward={"ndcg": 1.0, GOLD: 0.0})
    policy = refit_env.load_policy("ReFiT-Synthetic-v0")
    observation, _ = env.reset(seed=0, options={"user": 3})
    terminated, reward, info = False, 0.0, {}
    while not terminated:
        observation, reward, terminated, _, info = env.step(policy.act(observation))
    assert 0.0 < info["Gold"] < 1.0
    assert reward == info["ndcg"]


def test_other_data_sets_are_refused(data: Dataset) -> None:
    other = replace(data, name="mine", meta={})
    with pytest.raises(ValueError, match="those of 'mine' are not known: use it with ReFiT-Synthetic-v0"):
        make_reward(GOLD, other, make_relevance("none", other))
