"""Tests of Stable-Baselines3's rows of the comparison: budgets, best weights, alternating hold-outs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import DictRolloutBuffer

import refit_env  # noqa: F401  # registers the ids
from agents.hyperparams.models import Budget
from agents.hyperparams.sb3 import SB3Settings, sb3_settings
from agents.sb3 import LeaveOneOutRolloutBuffer
from agents.sb3.experiment import InTurns, make_envs, make_model, train_sb3, whole_rollouts
from refit_env.backbones import make_backbone
from refit_env.data import load_dataset
from refit_env.envs.wrappers.vector import GroupedUsers
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy

ENV = "ReFiT-Synthetic-v0"
BUDGET = Budget(steps=200, validations=2)
GOAL = {"reward": "ndcg", "relevance": "recent"}


def small(name: str) -> SB3Settings:
    """Return small settings of the row: 8 environments, 4 steps per rollout."""
    settings = sb3_settings()[name]
    arguments = dict(settings.arguments) | {"batch_size": 32}
    if name == "a2c":
        del arguments["batch_size"]
    if name == "sac":
        arguments |= {"learning_starts": 40, "buffer_size": 500, "gradient_steps": 2}
    return replace(settings, num_envs=8, rank=4 if settings.rank else 0, arguments=arguments)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sb3") / "run"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = make_backbone("diffrec", 400, {"hidden": (16,), "num_steps": 5})
    DiffusionPolicy(backbone, 4).save(folder)
    return folder


@pytest.mark.parametrize("name", sb3_settings())
def test_every_row_trains_within_its_budget_and_returns_the_best(name: str, checkpoint: Path) -> None:
    trained = train_sb3(name, small(name), BUDGET, ENV, GOAL, checkpoint, seed=0)
    dataset = load_dataset("synthetic")
    start = evaluate(DiffusionPolicy.load(checkpoint).scorer(dataset), dataset, "valid").means()
    assert trained.env_steps == 192  # six rollouts of 32; a seventh would take more than 200
    assert trained.curve["steps"][0] == 0.0 and trained.curve["steps"][-1] == 192.0
    assert len(trained.curve["steps"]) >= 3
    # By a chain of other batches, where near ties of two items may fall the other way:
    if name != "sac":  # an untrained SAC acts near zero, not at zero
        assert trained.curve["valid/ndcg@20"][0] == pytest.approx(start["ndcg@20"], abs=1e-3)
    found = evaluate(trained.score, dataset, "valid").means()["ndcg@20"]
    assert found == pytest.approx(max(trained.curve["valid/ndcg@20"]), abs=1e-5)
    assert trained.best_steps in trained.curve["steps"]
    assert len(trained.reward["mean"]) >= 5 and all(0 <= mean <= 1 for mean in trained.reward["mean"])
    assert trained.training_seconds > 0 and trained.validation_seconds > 0


def test_a_run_is_reproduced_by_its_seed(checkpoint: Path) -> None:
    runs = [
        train_sb3("a2c", small("a2c"), BUDGET, ENV, GOAL, checkpoint, seed=s).reward["mean"]
        for s in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_hold_outs_alternate(checkpoint: Path) -> None:
    goal = GOAL | {"relevance": "holdout"}
    envs = make_envs(small("ppo"), ENV, goal, checkpoint, seed=0, draws=3)
    turns: Any = envs.env
    assert isinstance(turns, InTurns)
    assert all(isinstance(each, GroupedUsers) for each in turns.envs_in_turn)
    seen, observation = [], envs.reset()
    for _ in range(4):
        seen.append(turns.unwrapped.problem)
        assert len({info["user"] for info in envs.reset_infos}) == 1  # the 8 chains have the same user
        for _ in range(4):
            observation, _, done, _ = envs.step(observation["u"])
        assert done.all()
    assert len({id(problem) for problem in seen[:3]}) == 3 and seen[3] is seen[0]
    hidden = [problem.relevance.visible for problem in seen[:2]]
    assert (hidden[0] != hidden[1]).nnz > 0


@pytest.mark.parametrize("name", sb3_settings())
def test_on_policy_rows_compare_the_chains_of_a_user(name: str, checkpoint: Path) -> None:
    settings = small(name)
    model: Any = make_model(name, settings, make_envs(settings, ENV, GOAL, checkpoint, 0), checkpoint, 0)
    buffer = getattr(model, "rollout_buffer", None)
    assert isinstance(buffer, LeaveOneOutRolloutBuffer) == (name != "sac")
    assert settings.group_size == (1 if name == "sac" else buffer.group_size)


def test_rows_without_groups(checkpoint: Path) -> None:
    """They use Stable-Baselines3's advantages, and a separate user in each sub-environment."""
    arguments = dict(small("ppo").arguments)
    del arguments["rollout_buffer_kwargs"]
    settings = replace(small("ppo"), arguments=arguments)
    envs = make_envs(settings, ENV, GOAL, checkpoint, seed=0)
    envs.reset()
    assert len({info["user"] for info in envs.reset_infos}) > 1
    model: Any = make_model("ppo", settings, envs, checkpoint, 0)
    assert type(model.rollout_buffer) is DictRolloutBuffer


def test_sac_starts_as_the_pretrained_chain(checkpoint: Path) -> None:
    settings = small("sac")
    envs = make_envs(settings, ENV, GOAL, checkpoint, 0)
    actions, _ = make_model("sac", settings, envs, checkpoint, 0).predict(envs.reset(), deterministic=True)
    assert not actions.any()


def test_alternating_environments_are_reset_together() -> None:
    def make() -> Any:
        return gym.make_vec(
            ENV, num_envs=3, vectorization_mode="vector_entry_point", autoreset_mode="Disabled"
        )

    turns = InTurns([make(), make()], seed=0)
    turns.reset()
    with pytest.raises(ValueError, match="reset together"):
        turns.reset(options={"reset_mask": np.array([True, False, True])})
    users = turns.reset(options={"user": np.array([1, 2, 3])})[1]["user"]
    assert users.tolist() == [1, 2, 3]


def test_wrong_settings_are_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    envs = make_envs(small("ppo"), ENV, GOAL, checkpoint, seed=0)
    with pytest.raises(ValueError, match="Did you mean 'ppo'"):
        make_model("pppo", small("ppo"), envs, checkpoint, 0)
    with pytest.raises(ValueError, match="SAC needs a rank"):
        make_model("sac", small("ppo"), envs, checkpoint, 0)
    with pytest.raises(ValueError, match="one rollout has 32 environment steps, the budget is 31"):
        whole_rollouts(make_model("ppo", small("ppo"), envs, checkpoint, 0), 31)
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(ImportError, match=r"refit-env\[zoo\]"):
        make_model("trpo", small("trpo"), envs, checkpoint, 0)
