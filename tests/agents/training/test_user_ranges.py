"""Tests of training on ranges of users, of which one at a time is in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.algorithms.configs import DistillConfig, ReinforceConfig
from agents.algorithms.distillation import Distill
from agents.algorithms.reinforce import Reinforce
from refit_env.backbones import backbone_for
from refit_env.data import load_mapped, synthesize, write_mapped
from refit_env.envs import problem as problems
from refit_env.errors import SettingError
from refit_env.policy import DiffusionPolicy

DATA = synthesize(num_users=60, num_items=40, num_clusters=4)
SMALL = ReinforceConfig(
    users_per_batch=8, iterations=6, eval_every=3, user_parts=3, part_iterations=2, validation_users=5
)


def make(config: ReinforceConfig = SMALL, data: Any = DATA, **goal: Any) -> Reinforce:
    policy = DiffusionPolicy(backbone_for(DATA, "diffrec", {"hidden": (8,), "num_steps": 5}, seed=0), 2)
    goal = {"data": data, "reward": "ndcg", "k": 5} | goal
    return Reinforce(policy, "ReFiT-Custom-v0", config, env_kwargs=goal, device="cpu")


def test_ranges_take_turns_and_the_first_one_validates(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, seen = make(), []
    update = agent.update

    def noted(users: torch.Tensor) -> dict[str, float]:
        seen.append(agent.env.problem.dataset)
        assert bool(np.isin(users.numpy(), agent.env.problem.users).all())
        return update(users)

    monkeypatch.setattr(agent, "update", noted)
    result = agent.learn()
    for n, data in enumerate(seen):
        part = DATA.part(20 * (n // 2), 20 * (n // 2 + 1))
        assert np.array_equal(data.train.items, part.train.items), n
        assert data.fingerprint == DATA.fingerprint
    assert len(seen) == 6 and agent.evaluate("valid", users=agent._selection_users).users.size == 5
    assert result.history[-1]["valid/ndcg@20"] >= 0
    own = [known for known in problems._PROBLEMS.values() if any(known.dataset is data for data in seen)]
    assert len({id(known.dataset) for known in own}) <= 2  # the first and the last range


def test_validations_evaluate_the_first_range_whatever_range_is_trained() -> None:
    agent = make(replace(SMALL, learning_rate=0.0, eval_every=1, part_iterations=1))
    history = agent.learn().history
    first = agent.evaluate("valid", users=agent._selection_users).means()
    assert agent.env is not agent.envs[0]  # the last iteration was of another range
    for name in ("ndcg@20", "recall@20", "coverage@20"):
        assert {row[f"valid/{name}"] for row in history} == {first[name]}
    assert np.array_equal(agent.dataset.train.items, DATA.part(0, 20).train.items)


def test_a_resumed_run_repeats_an_unbroken_one(tmp_path: Path) -> None:
    folder = write_mapped([DATA.part(0, 30), DATA.part(30, 60)], tmp_path / "shop")
    config = replace(SMALL, part_iterations=1)
    whole = make(config, load_mapped(folder))
    whole.learn()
    first = make(replace(config, iterations=3), load_mapped(folder))
    first.learn(tmp_path / "run")
    again = make(config, str(folder))
    again.load(tmp_path / "run")
    again.learn(tmp_path / "run")
    for a, b in zip(whole.history, again.history, strict=True):
        assert (
            a["reward/mean" if "reward/mean" in a else "valid/ndcg@20"]
            == b["reward/mean" if "reward/mean" in b else "valid/ndcg@20"]
        )


def test_validation_evaluates_a_sample_of_the_users_that_select() -> None:
    agent = make(replace(SMALL, user_parts=1, validation_users=7))
    users = agent._selection_users
    assert users is not None and users.size == 7 == np.unique(users).size
    again = make(replace(SMALL, user_parts=1, validation_users=7))._selection_users
    assert again is not None and np.array_equal(users, again)
    everyone = make(replace(SMALL, user_parts=1, validation_users=10**6))._selection_users
    assert everyone is not None and everyone.size == agent.evaluate("valid").users.size


@pytest.mark.parametrize(
    ("changes", "goal", "message"),
    [
        (
            {"user_parts": 10},
            {},
            r"user_parts must leave each range at least 8 users .*, found 10: users 0\.\.5",
        ),
        (
            {},
            {"reward": "coverage"},
            "user_parts must be 1 with a reward that uses the lists of all users, found 3",
        ),
        ({"relevance_draws": 2}, {"relevance": "holdout"}, "user_parts must be 1 with relevance_draws"),
    ],
)
def test_what_needs_all_users_is_refused(changes: dict[str, Any], goal: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make(replace(SMALL, estimator="score", samples_per_user=2, **changes), **goal)


def test_an_algorithm_that_reads_all_rows_is_refused() -> None:
    policy = DiffusionPolicy(backbone_for(DATA, "diffrec", {"hidden": (8,), "num_steps": 5}, seed=0), 2)
    goal = {"data": DATA, "reward": "ndcg", "k": 5}
    with pytest.raises(SettingError, match="user_parts must be 1 with algorithm 'distill'"):
        config = DistillConfig(users_per_batch=8, user_parts=2)
        Distill(policy, "ReFiT-Custom-v0", config, env_kwargs=goal, device="cpu")
