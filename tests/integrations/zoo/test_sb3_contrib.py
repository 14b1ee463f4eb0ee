"""sb3-contrib on the embedded catalogue: TRPO on the diffusion policy, TQC on low-rank residual actions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import gymnasium as gym
import pytest
import torch

import refit_env  # noqa: F401
from agents.sb3 import DiffusionActorCriticPolicy, evaluate_model, to_sb3_vec_env
from refit_env.data import load_dataset
from refit_env.envs.wrappers.vector import FactorObservation, LowRankAction, ResidualAction
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy

pytestmark = pytest.mark.slow


def pretrained_ndcg(checkpoint: Path) -> float:
    data = load_dataset("synthetic")
    return evaluate(DiffusionPolicy.load(checkpoint).scorer(data), data, "test").means()["ndcg@20"]


def test_trpo_stays_within_its_divergence(need: Callable[[str, str], ModuleType], checkpoint: Path) -> None:
    contrib = need("sb3_contrib", "zoo")
    envs = to_sb3_vec_env(gym.make_vec("ReFiT-Synthetic-v0", num_envs=16, reward="ndcg"))
    model = contrib.TRPO(
        DiffusionActorCriticPolicy,
        envs,
        n_steps=8,
        batch_size=128,
        gamma=1.0,
        gae_lambda=1.0,
        target_kl=0.001,
        n_critic_updates=2,
        policy_kwargs={"actor": {"run": str(checkpoint)}},
        seed=0,
        device="cpu",
    )
    assert evaluate_model(model).means()["ndcg@20"] == pytest.approx(pretrained_ndcg(checkpoint), abs=1e-6)
    before = [p.detach().clone() for p in model.policy.actor.parameters()]
    model.learn(128)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.policy.actor.parameters(), strict=True))
    logged = model.logger.name_to_value
    assert logged["train/is_line_search_success"] == 1.0
    assert 0 < logged["train/kl_divergence_loss"] <= 0.001


def test_tqc_learns_low_rank_residuals_from_the_pretrained_chain(
    need: Callable[[str, str], ModuleType], checkpoint: Path
) -> None:
    contrib = need("sb3_contrib", "zoo")
    env = gym.make_vec("ReFiT-Synthetic-v0", num_envs=16, reward="ndcg")
    small = FactorObservation(LowRankAction(ResidualAction(env, str(checkpoint)), rank=16), rank=16)
    model = contrib.TQC(
        "MultiInputPolicy",
        to_sb3_vec_env(small),
        learning_starts=128,
        batch_size=64,
        gamma=1.0,
        gradient_steps=2,
        policy_kwargs={"net_arch": [32]},
        seed=0,
        device="cpu",
    )
    with torch.no_grad():  # an actor of zeros is the pretrained chain
        for parameter in model.actor.parameters():
            parameter.zero_()
    assert evaluate_model(model).means()["ndcg@20"] == pytest.approx(pretrained_ndcg(checkpoint), abs=1e-3)
    model.learn(512)
    found = evaluate_model(model).means()["ndcg@20"]
    assert model.num_timesteps >= 512 and 0.0 < found <= 1.0
    assert found != pytest.approx(pretrained_ndcg(checkpoint), abs=1e-6)
