"""REINFORCE where all that scores is trained: the derivative is that of the expected reward, end to end."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.rollouts.rollout import roll_out
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import pretrain
from refit_env.backbones import backbone_class, backbone_for
from refit_env.data import Dataset
from refit_env.policy import DiffusionPolicy

OPTIONS: dict[str, dict[str, Any]] = {
    "recdiff": {"embedding": 6, "hidden": 8, "num_steps": 6},
    "diff-poi": {"embedding": 8, "history": 6, "num_steps": 10, "chain_steps": 2, "dropout": 0.0},
}
REWARDS: dict[str, dict[str, Any]] = {
    "recdiff": {"reward": "ease", "relevance": "holdout", "reward_kwargs": {"l2": 20.0}},
    "diff-poi": {"reward": {"log_rank": 0.5, "ease": 0.5}, "reward_kwargs": {"l2": 20.0}},
}


@pytest.fixture(scope="module", params=list(OPTIONS))
def learner(
    request: pytest.FixtureRequest, task_data: dict[str, Dataset], tmp_path_factory: pytest.TempPathFactory
) -> Reinforce:
    name = request.param
    data, folder = task_data[backbone_class(name).tasks[0]], tmp_path_factory.mktemp(name)
    backbone = backbone_for(data, name, OPTIONS[name], seed=0)
    settings = PretrainConfig(epochs=2, users_per_batch=64, eval_every=2, eval_steps=2, learning_rate=3e-3)
    DiffusionPolicy(pretrain(data, backbone, settings, seed=0, device="cpu").backbone, 2).save(folder, data)
    return made(name, data, folder)


def made(name: str, data: Dataset, folder: Path, **changes: Any) -> Reinforce:
    kwargs = {"data": data, "backbone": name, "checkpoint": str(folder), "k": 5} | REWARDS[name]
    config = ReinforceConfig(
        **{
            "users_per_batch": 8, "samples_per_user": 400, "exploration_std": 0.3, "iterations": 2,
            "scores_learning_rate": 1e-3, "pairs": 8, "relevance_draws": 1, "baseline": "none",
            "draw_lists": True,
        } | changes
    )  # fmt: skip
    return Reinforce(
        DiffusionPolicy.load(folder), "ReFiT-Custom-v0", config, env_kwargs=kwargs, seed=0, device="cpu"
    )


def users_of(agent: Reinforce) -> torch.Tensor:
    return torch.from_numpy(agent.env.problem.users[:8])


def mean_reward(agent: Reinforce, draws: int) -> float:
    """Of the policy as it is, its environment scoring by it; the same noise every time."""
    agent.env.problem.score_by(agent.policy.backbone)
    generator, values = torch.Generator().manual_seed(5), []
    with torch.no_grad():
        for _ in range(draws):
            rollout = roll_out(agent.policy, agent.env, users_of(agent), generator=generator)
            values.append(rollout.reward.double().mean())
    return float(torch.stack(values).mean())


def test_its_gradient_is_the_slope_of_the_mean_reward(
    learner: Reinforce, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = [p for group in learner.optimizer.param_groups for p in group["params"]]
    monkeypatch.setattr(learner, "take_step", lambda: 0.0)  # only the gradient is read
    total, draws = [torch.zeros_like(p) for p in weights], 12
    for _ in range(draws):
        learner.update(users_of(learner))
        for sum_, p in zip(total, weights, strict=True):
            sum_ += torch.zeros_like(p) if p.grad is None else p.grad / draws
    scale = 1.0 / learner.policy.backbone.dim  # "mean" reduction
    # Along the gradient itself, which no error of sign or of a missing path survives.
    norm = float(torch.cat([g.flatten() for g in total]).norm())
    step = 0.02
    slopes = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, g in zip(weights, total, strict=True):
                p.add_(g, alpha=sign * step / norm)
        slopes.append(mean_reward(learner, 6))
        with torch.no_grad():
            for p, g in zip(weights, total, strict=True):
                p.sub_(g, alpha=sign * step / norm)
    assert (slopes[0] - slopes[1]) / (2 * step) == pytest.approx(norm / scale, rel=0.2)


def test_validation_uses_the_present_weights(learner: Reinforce) -> None:
    users, data = users_of(learner), learner.env.problem.dataset
    learner.policy.scorer(data)(users)
    learner.update(users)
    fresh = copy.deepcopy(learner.policy)  # has worked out nothing from earlier weights
    assert torch.allclose(learner.policy.scorer(data)(users), fresh.scorer(data)(users), atol=1e-6)


def test_an_update_moves_what_scores_and_the_environment_follows(learner: Reinforce) -> None:
    backbone, problem = learner.policy.backbone, learner.env.problem
    moving = learner.optimizer.param_groups[-1]["params"]
    before = [p.clone() for p in moving]
    learner.update(users_of(learner))
    changed = [not torch.equal(a, b) for a, b in zip(before, moving, strict=True)]
    assert sum(changed) > 0.6 * len(changed)  # some encoders' weights cancel in any context
    problem.score_by(backbone)
    users = users_of(learner)
    with torch.no_grad():
        shown = backbone.shown(problem.seen, "cpu")(users)
        context, start = backbone.context(users, shown), backbone.initial_state(users, shown)
        u0 = torch.randn(8, backbone.dim)
        scores = backbone.scores(u0, users, context)
    assert torch.allclose(cast(torch.Tensor, problem.context(users)), cast(torch.Tensor, context), atol=1e-5)
    assert torch.allclose(problem.initial_state(users), start, atol=1e-5)
    assert torch.allclose(problem.scores(u0, users), scores, atol=1e-4)
