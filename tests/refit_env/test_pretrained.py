"""A policy in one call: it ranks, its actions are those of its chain, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import refit_env
from refit_env.data import load_dataset, synthesize
from refit_env.errors import CheckpointError
from refit_env.evaluation.ranking import evaluate


def test_its_lists_are_better_than_those_of_item_popularity() -> None:
    data = load_dataset("synthetic")
    policy = refit_env.load_policy("ReFiT-Synthetic-v0", num_steps=1)
    popular = torch.as_tensor(np.bincount(data.train.items, minlength=data.num_items)).float()
    ndcg = [
        evaluate(score, data, "test", device="cpu").means()["ndcg@20"]
        for score in (policy.scorer(data), lambda users: popular.expand(len(users), -1))
    ]
    assert ndcg[0] > 1.2 * ndcg[1]


def test_the_last_action_is_the_scores_of_the_noise_free_chain() -> None:
    policy = refit_env.load_policy("ReFiT-Synthetic-v0")
    env = gym.make("ReFiT-Synthetic-v0", backbone="linear", relevance="none", reward="ease")
    observation, info = env.reset(options={"user": 7})
    terminated = False
    while not terminated:
        observation, reward, terminated, _, info = env.step(policy.act(observation))
    expected = policy.scorer(load_dataset("synthetic"))(torch.tensor([7]))[0]
    np.testing.assert_allclose(observation["u"], expected.numpy(), rtol=1e-5, atol=1e-6)
    assert reward > 0 and info["top_k"].shape == (20,)


def test_a_batch_acts_as_its_members_do() -> None:
    policy = refit_env.load_policy("ReFiT-Synthetic-v0")
    envs = gym.make_vec("ReFiT-Synthetic-v0", num_envs=3, backbone="linear")
    observation, _ = envs.reset(seed=0)
    together = policy.act(observation)
    alone = [policy.act({"u": observation["u"][i], "t": observation["t"][i]}) for i in range(3)]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-5, atol=1e-6)


def test_a_run_folder_loads_its_policy(tmp_path: Path) -> None:
    saved = refit_env.load_policy("ReFiT-Synthetic-v0", num_steps=3)
    saved.save(tmp_path)
    again = refit_env.load_policy(tmp_path)
    assert again.num_steps == 3
    users = torch.arange(4)
    data = load_dataset("synthetic")
    assert torch.equal(again.scorer(data)(users), saved.scorer(data)(users))
    assert refit_env.load_policy(str(tmp_path), num_steps=1).num_steps == 1


def test_own_data_and_what_is_refused(tmp_path: Path) -> None:
    data = synthesize(num_users=40, num_items=30)
    assert refit_env.load_policy("ReFiT-Custom-v0", data=data).backbone.num_items == 30
    with pytest.raises(ValueError, match="pass data=FOLDER"):
        refit_env.load_policy("ReFiT-Custom-v0")
    with pytest.raises(ValueError, match="Did you mean 'ReFiT-ML1M-v0'"):
        refit_env.load_policy("ReFiT-ML1m-v0")
    with pytest.raises(CheckpointError):
        refit_env.load_policy(tmp_path)
    wrong: Any = 3
    with pytest.raises(ValueError, match="source must be a str or a Path, found 3"):
        refit_env.load_policy(wrong)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (3, "an observation has 'u' and 't', as gym.make returns it; found 3"),
        ({"u": np.zeros(400)}, "an observation has 'u' and 't'"),
        ({"u": np.zeros(400), "t": "a"}, "the observation's t must be numbers, found 'a'"),
        (
            {"u": np.zeros(3), "t": np.zeros(1)},
            r"u has the shape \(3,\); this policy's vectors have 400 numbers",
        ),
    ],
)
def test_an_observation_of_something_else_is_refused(observation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refit_env.load_policy("ReFiT-Synthetic-v0").act(observation)
