"""Selection by a rule while fine-tuning and pretraining: which weights are kept, and what is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.commands.finetune_run import outcome_of
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer
from refit_env.backbones import backbone_for
from refit_env.data import Dataset
from refit_env.policy import DiffusionPolicy
from tests.agents.algorithms.two_items import agent_on

Factory = Callable[..., DiffusionPolicy]
SMALL = ReinforceConfig(iterations=6, users_per_batch=16, eval_every=1, learning_rate=1e-2)


def history(agent: Reinforce) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k.startswith("valid/")} for row in agent.history]


def run(policy: DiffusionPolicy, data: Dataset, select: str, **changes: Any) -> tuple[Reinforce, Any]:
    agent = agent_on(Reinforce, policy, data, replace(SMALL, select=select, **changes), reward="coverage")
    return agent, agent.learn()


@pytest.mark.parametrize(("metric", "sign"), [("coverage@20", 1), ("gini@20", -1), ("novelty@20", 1)])
def test_the_best_by_the_metric_alone_is_kept(
    make_policy: Factory, small_data: Dataset, metric: str, sign: int
) -> None:
    agent, result = run(make_policy(), small_data, metric)
    values = [row[f"valid/{metric}"] for row in history(agent)]
    assert result.best_value == max(values, key=lambda v: sign * v) == values[result.best_iteration]
    assert result.rule_met and len(set(values)) > 1


def test_of_those_that_meet_the_conditions_the_best_is_kept(
    make_policy: Factory, small_data: Dataset
) -> None:
    agent, result = run(make_policy(), small_data, "coverage@20 where ndcg@20 >= 0.97 * start")
    rows = history(agent)
    met = [row["valid/ndcg@20"] >= 0.97 * rows[0]["valid/ndcg@20"] for row in rows]
    assert [row["valid/rule_met"] for row in rows] == [float(one) for one in met]
    best = max((row["valid/coverage@20"], -n) for n, row in enumerate(rows) if met[n])
    assert (result.best_value, -result.best_iteration) == best


def test_the_start_is_kept_and_named_if_nothing_meets_the_rule(
    make_policy: Factory, small_data: Dataset
) -> None:
    policy = make_policy()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    agent, result = run(policy, small_data, "coverage@20 where ndcg@20 >= 0.99", patience=2)
    assert result.best_iteration == 0 and not result.rule_met and agent.iteration == 2
    assert all(bool((before[name] == value).all()) for name, value in policy.state_dict().items())
    said = outcome_of(
        {
            "iterations": 2,
            "best_iteration": 0,
            "best_value": result.best_value,
            "rule_met": result.rule_met,
            "selected_on": f"valid {agent.config.select}",
        }
    )
    assert said.startswith("Nothing met the rule: in 2 iterations the conditions of valid coverage@20 where")


def test_what_a_run_has_already_is_not_advised() -> None:
    kept = {"iterations": 4, "best_iteration": 0, "best_value": 0.25, "selected_on": "valid ndcg@20"}
    said = outcome_of(kept)
    assert "--anneal-lr" in said and "(recent where the data has times, holdout where it has none)" in said
    said = outcome_of(kept, "users", {"agent": {"anneal_lr": True}, "env_kwargs": {"relevance": "recent"}})
    assert "--anneal-lr" not in said and said.endswith("or another --relevance (holdout where it has none).")
    assert outcome_of(kept | {"iterations": 0}).startswith("No iteration was run")


def test_a_resumed_run_selects_as_an_unbroken_one(
    check_resume: Callable[[Callable[[DiffusionPolicy], Any]], None], small_data: Dataset
) -> None:
    config = replace(SMALL, iterations=4, eval_every=2, select="gini@20 where recall@10 >= 0.9 * start")
    check_resume(lambda policy: agent_on(Reinforce, policy, small_data, config, reward="coverage"))


def test_pretraining_selects_by_a_rule(small_data: Dataset) -> None:
    config = PretrainConfig(epochs=3, eval_every=1, select="gini@20 where ndcg@20 >= 0.02")
    result = Pretrainer(small_data, backbone_for(small_data, "diffrec", seed=0), config).learn()
    rows = result.history
    met = {row["valid/gini@20"]: row["epoch"] for row in rows if row["valid/ndcg@20"] >= 0.02}
    assert (result.best_value, result.best_epoch) == (min(met), met[min(met)])
