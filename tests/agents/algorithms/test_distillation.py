"""Distillation: its loss by hand, its gradient where scores move, what it refuses, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose

from agents.algorithms.configs import DistillConfig
from agents.algorithms.distillation import Distill
from agents.gradients.listwise import listwise
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import pretrain
from refit_env.backbones import backbone_class, backbone_for
from refit_env.data import Dataset
from refit_env.policy import DiffusionPolicy

OPTIONS: dict[str, dict[str, Any]] = {
    "diffrec": {"hidden": (16,), "num_steps": 4},
    "recdiff": {"embedding": 6, "hidden": 8, "num_steps": 6},
    "diff-poi": {"embedding": 8, "history": 6, "num_steps": 10, "chain_steps": 2, "dropout": 0.0},
}
EASE = {"reward": "ease", "reward_kwargs": {"l2": 20.0}}
GOALS: dict[str, dict[str, Any]] = {
    "diffrec": EASE | {"relevance": "holdout"},
    "recdiff": EASE | {"relevance": "holdout"},
    "diff-poi": {"reward": {"log_rank": 0.5, "ease": 0.5}, "reward_kwargs": {"l2": 20.0}},
}


@pytest.fixture(scope="module", params=list(OPTIONS))
def start(
    request: pytest.FixtureRequest, task_data: dict[str, Dataset], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Dataset]:
    name = request.param
    data, folder = task_data[backbone_class(name).tasks[0]], tmp_path_factory.mktemp(name)
    settings = PretrainConfig(epochs=2, users_per_batch=64, eval_every=2, eval_steps=2, learning_rate=3e-3)
    trained = pretrain(data, backbone_for(data, name, OPTIONS[name], seed=0), settings, device="cpu")
    DiffusionPolicy(trained.backbone, 2).save(folder, data)
    return name, folder, data


def made(start: tuple[str, Path, Dataset], goal: dict[str, Any] | None = None, **changes: Any) -> Distill:
    name, folder, data = start
    kwargs = {"data": data, "backbone": name, "k": 5} | (GOALS[name] if goal is None else goal)
    if name != "diffrec":
        kwargs["checkpoint"] = str(folder)
    config = DistillConfig(**{"users_per_batch": 32, "iterations": 40, "eval_every": 20} | changes)
    policy = DiffusionPolicy.load(folder)
    return Distill(policy, "ReFiT-Custom-v0", config, env_kwargs=kwargs, seed=0, device="cpu")


def test_the_loss_is_the_cross_entropy_of_the_gains_shares() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0], [0.0, 1.0, -torch.inf], [5.0, 1.0, 1.0]])
    gains = torch.tensor([[1.0, 0.0, 3.0], [2.0, 2.0, 0.0], [0.0, 0.0, 0.0]])  # the last has no gains
    share = torch.tensor([[0.25, 0.0, 0.75], [0.5, 0.5, 0.0]])
    odds = logits[:2].double().softmax(1)
    expected = -sum(
        float(share[n, i]) * float(odds[n, i].log()) for n in range(2) for i in range(3) if share[n, i]
    )
    assert float(listwise(logits, gains)) == pytest.approx(expected / 2, rel=1e-6)
    assert float(listwise(logits[2:], gains[2:])) == 0.0


def test_it_brings_lists_closer_to_what_the_reward_says(start: tuple[str, Path, Dataset]) -> None:
    rates = {} if start[0] == "diffrec" else {"scores_learning_rate": 1e-2}
    agent = made(start, learning_rate=1e-2, **rates)
    history = agent.learn().history
    assert history[-1]["train/loss"] < history[1]["train/loss"]
    assert history[-1]["reward/mean"] > history[1]["reward/mean"]


def test_the_fitted_temperature_loses_least(start: tuple[str, Path, Dataset]) -> None:
    agent = made(start)
    users = agent._train_users[:32]
    with torch.no_grad():
        scores, gains = agent._scores(agent.env, users), agent._gains(users)
        losses = {t: float(listwise(scores / t, gains)) for t in (agent.temperature * f for f in (0.5, 1, 2))}
    assert min(losses, key=losses.__getitem__) == agent.temperature
    assert made(start, temperature=0.3).temperature == 0.3


def test_score_weights_move_only_if_the_settings_say_so(start: tuple[str, Path, Dataset]) -> None:
    if start[0] == "diffrec":
        with pytest.raises(ValueError, match="leave scores_learning_rate at 0"):
            made(start, scores_learning_rate=1e-2)
        return
    for rate in (0.0, 1e-2):
        agent = made(start, iterations=2, eval_every=1, scores_learning_rate=rate)
        before = agent.policy.backbone.score_table()
        assert before is not None
        before = before.detach().clone()
        agent.update(agent._train_users[:32])
        after = agent.policy.backbone.score_table()
        assert after is not None
        assert torch.equal(before, after.detach()) == (rate == 0)


def test_what_is_scored_is_what_is_evaluated(start: tuple[str, Path, Dataset]) -> None:
    agent = made(start, goal={"reward": "ease", "relevance": "train"})
    users = agent._train_users[:5]
    with torch.no_grad():
        scores = agent._scores(agent.env, users)
    reference = agent.policy.scorer(agent.env.problem.dataset)(users)
    shown = scores.isfinite()
    assert_allclose(scores[shown].numpy(), reference[shown].numpy(), rtol=1e-5, atol=1e-6)


def test_a_resumed_run_repeats_an_unbroken_one(start: tuple[str, Path, Dataset], tmp_path: Path) -> None:
    whole = made(start, iterations=6, eval_every=3).learn().policy.state_dict()
    broken = made(start, iterations=6, eval_every=3)
    broken._record(broken._validate(), None)
    for _ in range(3):
        broken._record(broken._step(), None)
    broken.save(tmp_path)
    again = made(start, iterations=6, eval_every=3)
    again.temperature = 99.0  # whatever it is, the saved one counts
    again.load(tmp_path)
    assert again.temperature == broken.temperature
    for name, value in again.learn().policy.state_dict().items():
        assert torch.equal(value, whole[name])


def test_rewards_that_say_nothing_of_an_item_are_refused(start: tuple[str, Path, Dataset]) -> None:
    with pytest.raises(ValueError, match="Diversity is none"):
        made(start, goal={"reward": "diversity"})
    with pytest.raises(ValueError, match="temperature"):
        made(start, temperature=-1.0)
