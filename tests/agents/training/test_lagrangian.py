"""Constraints: the controller's equation, the mix it weighs, what it does to a training, and resuming."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from agents.algorithms.configs import PPOConfig, ReinforceConfig
from agents.algorithms.ppo import PPO
from agents.algorithms.reinforce import Reinforce
from agents.training.lagrangian import SMOOTHING, Gains, Lagrangian
from refit_env.data import Dataset
from refit_env.errors import SettingError
from refit_env.evaluation.selection import parse_condition
from refit_env.policy import DiffusionPolicy
from tests.agents.algorithms.two_items import agent_on

Factory = Callable[..., DiffusionPolicy]
SMALL = ReinforceConfig(
    iterations=8,
    users_per_batch=32,
    eval_every=1,
    learning_rate=5e-3,
    constraint=("ndcg@20 >= 0.98 * start",),
)


def coverage_agent(policy: DiffusionPolicy, data: Dataset, config: Any = SMALL, cls: Any = Reinforce) -> Any:
    return agent_on(cls, policy, data, config, reward="coverage")


def test_the_multiplier_follows_the_equation() -> None:
    found = Lagrangian(
        [parse_condition("ndcg@20 >= 0.9 * start"), parse_condition("gini@20 <= 0.8")],
        ["ndcg", "coverage"],
        1.0,
        Gains(3.0, 2.0, 5.0),
    )
    start = {"ndcg@20": 0.5, "gini@20": 0.8}
    found.update({"ndcg@20": 0.45, "gini@20": 0.8}, start)  # both exactly met
    assert found.multipliers == pytest.approx([1.0, 1.0])
    found.update({"ndcg@20": 0.36, "gini@20": 0.6}, start)  # violated by a fifth; met with a quarter to spare
    smooth = 0.2 * (1 - SMOOTHING)
    assert found.multipliers[0] == pytest.approx(3 * smooth + (1 + 2 * smooth) + 5 * smooth)
    below = -0.25 * (1 - SMOOTHING)
    assert found.multipliers[1] == pytest.approx(3 * below + (1 + 2 * below))
    for _ in range(20):
        found.update({"ndcg@20": 0.6, "gini@20": 0.1}, start)
    assert found.multipliers == [0.0, 0.0]  # never negative, and the integral does not fall below 0
    found.update({"ndcg@20": 0.0, "gini@20": 2.0}, start)
    assert min(found.multipliers) > 0


@pytest.mark.parametrize("estimator", ["pathwise", "score"])
def test_the_reward_is_the_weighted_mix(make_policy: Factory, small_data: Dataset, estimator: str) -> None:
    config = replace(SMALL, estimator=estimator, multiplier=3.0)
    agent = coverage_agent(make_policy(), small_data, config)
    problem, users = agent.env.problem, torch.arange(8)
    scores = torch.rand(8, small_data.num_items)
    paid = problem.reward_fn(scores, users)
    assert torch.allclose(paid.value, (paid.terms["coverage"] + 3 * paid.terms["ndcg"]) / 4, atol=1e-6)
    assert agent.learn().history[-1]["iteration"] == 8


def test_a_constraint_on_a_part_of_the_mix_adds_to_its_weight(
    make_policy: Factory, small_data: Dataset
) -> None:
    agent = agent_on(Reinforce, make_policy(), small_data, SMALL, reward={"ndcg": 1.0, "coverage": 2.0})
    weights = {name: weight for name, (_, weight) in agent.env.problem.reward_fn.rewards.items()}  # type: ignore[attr-defined]
    assert weights == {"ndcg": 1.0, "coverage": 1.0}  # (1 + 1) / 2 and 2 / 2


def test_the_constraint_keeps_accuracy_and_is_logged(make_policy: Factory, small_data: Dataset) -> None:
    free = coverage_agent(make_policy(), small_data, replace(SMALL, constraint=())).learn().history
    held = coverage_agent(make_policy(), small_data).learn().history
    assert held[-1]["valid/ndcg@20"] > free[-1]["valid/ndcg@20"] + 0.01
    assert held[-1]["valid/coverage@20"] >= held[0]["valid/coverage@20"]
    assert "multiplier/ndcg@20" not in free[0]
    limit = 0.98 * held[0]["valid/ndcg@20"]
    smooth = None
    for row in held:
        error = (limit - row["valid/ndcg@20"]) / limit
        smooth = error if smooth is None else SMOOTHING * smooth + (1 - SMOOTHING) * error
        assert row["violation/ndcg@20"] == pytest.approx(smooth, abs=1e-9)
    assert len({row["multiplier/ndcg@20"] for row in held}) >= 3


def test_another_algorithm_is_constrained_too(make_policy: Factory, small_data: Dataset) -> None:
    config = PPOConfig(iterations=2, users_per_batch=16, eval_every=1, constraint=("ndcg@20 >= start",))
    assert "multiplier/ndcg@20" in coverage_agent(make_policy(), small_data, config, PPO).learn().history[-1]


def test_a_resumed_run_has_the_multipliers_of_an_unbroken_one(
    check_resume: Callable[[Callable[[DiffusionPolicy], Any]], None], small_data: Dataset
) -> None:
    config = replace(SMALL, iterations=4, constraint=("ndcg@20 >= 1.05 * start", "gini@20 <= 0.9 * start"))
    check_resume(lambda policy: agent_on(Reinforce, policy, small_data, config, reward="novelty"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "ndcg@20 > 1",
            "constraint must read METRIC >= NUMBER [* start], or with <=; found '>' after ndcg@20",
        ),
        ("ndgc@20 >= 1", "constraint must name metrics among"),
        ("serendipity@20 >= 1", "constraint must be on one of ndcg, recall"),
        ("gini@20 >= 0.5", "constraint gini@20 >= 0.5 limits what is better: write gini@20 <= ..."),
    ],
)
def test_mistakes_are_named(text: str, said: str, make_policy: Factory, small_data: Dataset) -> None:
    with pytest.raises(SettingError) as error:
        coverage_agent(make_policy(), small_data, replace(SMALL, constraint=(text,)))
    assert said in str(error.value)


@pytest.mark.parametrize("text", ["ild@20 >= 1.1 * start", "calibration@20 <= 0.9 * start"])
def test_diversity_and_calibration_are_constrained_with_the_default_estimator(
    text: str, make_policy: Factory, small_data: Dataset
) -> None:
    metric = text.split()[0]
    agent = coverage_agent(make_policy(), small_data, replace(SMALL, constraint=(text,), iterations=2))
    assert agent.config.estimator == "pathwise"  # type: ignore[attr-defined]
    row = agent.learn().history[-1]
    assert (
        row[f"multiplier/{metric}"] > 0
        and row[f"reward/marginal_{'diversity' if 'ild' in text else 'calibration'}"] > 0
    )
