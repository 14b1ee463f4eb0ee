"""Budgets in environment steps, counted where they are taken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
import torch

import refit_env  # noqa: F401  # registers the ids
from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.experiments.training import (
    StepCounter,
    data_of,
    fine_tuned,
    fit_budget,
    further_training,
    pretrained,
    trained_by,
)
from agents.training.closed_form_search import fitted_policy
from agents.training.interrupt import deferred_interrupt
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer
from refit_env.backbones import make_backbone
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy

ENV = "ReFiT-Synthetic-v0"
GOAL = {"reward": "ndcg", "relevance": "recent"}


@pytest.fixture
def policy() -> DiffusionPolicy:
    backbone = make_backbone("diffrec", data_of(ENV).num_items, {"hidden": (16,), "num_steps": 5})
    return DiffusionPolicy(backbone, 4)


@pytest.mark.parametrize(("budget", "iterations"), [(8 * 2 * 4, 1), (8 * 2 * 4 * 10 + 63, 10)])
def test_iterations_are_as_many_as_the_budget_allows(budget: int, iterations: int) -> None:
    config = ReinforceConfig(users_per_batch=8, samples_per_user=2)
    fitted = fit_budget(config, ENV, GOAL, 4, budget, validations=5)
    assert fitted == replace(config, iterations=iterations, eval_every=max(1, iterations // 5))


def test_batches_are_cut_to_the_users_before_they_are_counted() -> None:
    config = ReinforceConfig(users_per_batch=10**9)
    users = gym.make(ENV, **GOAL).unwrapped.problem.users.size  # type: ignore[attr-defined]
    assert fit_budget(config, ENV, GOAL, 4, users * 4 * 3, validations=1).iterations == 3
    with pytest.raises(ValueError, match=f"needs {users * 4} environment steps, the budget is 5"):
        fit_budget(config, ENV, GOAL, 4, 5, validations=1)


def test_further_training_keeps_the_chain(policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"num_steps": 3, "exploration_std": 0.02, "posterior_share": 0.5, "eta": 0.25}
    start = DiffusionPolicy(policy.backbone, **own)
    used: list[float] = []
    validate = Pretrainer._validate

    def spy(self: Pretrainer) -> dict[str, float]:
        used.append(self._chain.diffusion.eta)
        return validate(self)

    monkeypatch.setattr(Pretrainer, "_validate", spy)
    longer, _ = further_training(start, data_of(ENV), PretrainConfig(epochs=1), seed=0)
    assert longer.chain == own and set(used) == {0.25}


def test_steps_are_counted_in_the_environment(policy: DiffusionPolicy) -> None:
    config = ReinforceConfig(users_per_batch=8, iterations=3, eval_every=2)
    result, taken = fine_tuned("reinforce", policy, ENV, config, GOAL, seed=0)
    assert taken == [0, 32, 64, 96]
    trained = trained_by(result, taken, data_of(ENV))
    assert trained.env_steps == 96
    assert trained.curve["steps"] == [0.0, 64.0, 96.0] and trained.reward["steps"] == [32.0, 64.0, 96.0]
    assert trained.best_steps == {0: 0.0, 2: 64.0, 3: 96.0}[result.best_iteration]
    assert trained.training_seconds == result.seconds > 0
    assert trained.validation_seconds == result.validation_seconds > 0
    assert result.cost.seconds >= result.seconds + result.validation_seconds
    best = max(trained.curve["valid/ndcg@20"])
    found = evaluate(trained.score, data_of(ENV), "valid").means()
    assert found["ndcg@20"] == pytest.approx(best, abs=1e-5)


def test_a_counter_counts_every_sub_environment() -> None:
    envs: Any = [gym.make_vec(ENV, num_envs=n, vectorization_mode="vector_entry_point") for n in (2, 3)]
    counter = StepCounter(envs)
    for env in envs:
        observation, _ = env.reset(seed=0)
        env.step(observation["u"])
    envs[1].step(observation["u"])
    assert counter.count == 2 + 3 + 3


def test_half_a_run_is_no_result(policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Reinforce, users: object) -> dict[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Reinforce, "update", stop)
    with pytest.raises(KeyboardInterrupt), deferred_interrupt():
        fine_tuned("reinforce", policy, ENV, ReinforceConfig(users_per_batch=8, iterations=2), GOAL, seed=0)


def test_environments_without_data_of_their_own_are_refused() -> None:
    with pytest.raises(ValueError, match="ReFiT-Custom-v0 has no data set of its own"):
        data_of("ReFiT-Custom-v0")


def test_a_study_fits_a_closed_form_with_the_options_of_its_model() -> None:
    options = {"l2": 20.0, "neighborhood": 0.3}
    policy, result = pretrained(
        "ReFiT-Synthetic-v0", PretrainConfig(), 0, "linear", options=options, num_steps=1
    )
    expected = fitted_policy(data_of("ReFiT-Synthetic-v0"), "linear", options, 1, torch.device("cpu"))
    weights = (one.backbone.state_dict()["weight"] for one in (policy, expected))
    assert torch.equal(*weights) and policy.num_steps == 1
    assert result.backbone is policy.backbone and not result.history
