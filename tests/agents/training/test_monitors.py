"""Letters: m users, K list length."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from agents import Reinforce, ReinforceConfig
from agents.runs.log import read_log
from agents.training.monitors import mean_popularity
from refit_env.data import Dataset, Interactions
from refit_env.policy import DiffusionPolicy

Factory = Callable[..., DiffusionPolicy]
SMALL = {"iterations": 6, "eval_every": 2, "users_per_batch": 16, "learning_rate": 1e-2}


def make(policy: DiffusionPolicy, data: Dataset, **env: object) -> Reinforce:
    kwargs = {"data": data, "backbone": "diffrec", "reward": "ndcg", "relevance": "holdout", "k": 5} | env
    return Reinforce(policy, "ReFiT-Custom-v0", ReinforceConfig(**SMALL), env_kwargs=kwargs, device="cpu")


def test_popularity_is_the_share_of_users_who_have_the_item() -> None:
    train = Interactions.from_pairs([0, 1, 2, 3, 0], [0, 0, 0, 0, 1], num_users=4, num_items=3)
    none = Interactions.from_pairs([], [], num_users=4, num_items=3)
    data = Dataset("shop", "cf", train, none, none, time_ordered=False)
    assert mean_popularity(np.array([[0, 1], [2, -1]]), data) == pytest.approx((1 + 1 / 4 + 0) / 3)


def test_every_validation_is_monitored(make_policy: Factory, small_data: Dataset, tmp_path: Path) -> None:
    agent = make(make_policy(), small_data)
    rewards = []

    def measure(agent: Reinforce, scalars: dict[str, float]) -> None:
        if "monitor/reward" in scalars:  # noise-free chains of the first hold-out's users
            problem, users = agent.envs[0].problem, agent._train_users
            with torch.no_grad():
                u0 = agent.policy.denoise(problem.initial_state(users), problem.context(users))
            rewards.append(float(problem.score(u0, users).value.mean()))

    agent.learn(tmp_path, callback=measure)  # type: ignore[arg-type]
    rows = [row for row in read_log(tmp_path) if "monitor/reward" in row]
    assert [row["iteration"] for row in rows] == [0, 2, 4, 6]
    assert [row["monitor/reward"] for row in rows[1:]] == pytest.approx(rewards, abs=1e-6)
    assert "policy/kl_speed" not in rows[0] and rows[0]["policy/kl_to_pretrained"] == 0
    for before, after in pairwise(rows):
        growth = after["policy/kl_to_pretrained"] - before["policy/kl_to_pretrained"]
        assert after["policy/kl_speed"] == pytest.approx(growth / 2)
    assert all({"valid/coverage@20", "valid/gini@20", "monitor/popularity"} <= row.keys() for row in rows)


def test_alarms_are_counted_in_the_log(make_policy: Factory, small_data: Dataset, tmp_path: Path) -> None:
    """A reward for popular items is over-optimised within a few large steps."""
    agent = make(make_policy(), small_data, reward={"novelty": -1.0}, relevance="none")
    agent.learn(tmp_path)
    counts = [row["monitor/alarms"] for row in read_log(tmp_path) if "monitor/alarms" in row]
    assert counts[0] == 0 and counts[-1] > 0 and counts == sorted(counts)
