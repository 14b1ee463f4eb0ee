"""Tests of ranking evaluation inside SB3's training loop, and of the chain's logs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents.sb3 import (
    ChainLogCallback,
    DiffusionActorCriticPolicy,
    GymVecEnv,
    RankingEvalCallback,
    evaluate_model,
    to_sb3_vec_env,
)
from agents.sb3.callbacks import check_actor, denoising_problem, divergence, model_scorer
from agents.sb3.experiment import InTurns
from refit_env.data import Dataset
from refit_env.envs import DenoisingEnv, DenoisingVectorEnv
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy
from refit_env.rewards import Reward
from refit_env.rewards.beyond_accuracy import Coverage

MakeEnvs = Callable[..., GymVecEnv]


@pytest.fixture
def make_model(make_envs: MakeEnvs, run_folder: Path) -> Callable[..., PPO]:
    def make(envs: Any = None, **kwargs: Any) -> PPO:
        given: dict[str, Any] = {"n_steps": 3, "batch_size": 12, "gamma": 1.0, "gae_lambda": 1.0, "seed": 0}
        given |= {"learning_rate": 3e-3, "policy_kwargs": {"actor": {"run": str(run_folder)}}}
        return PPO(DiffusionActorCriticPolicy, envs or make_envs(), device="cpu", **(given | kwargs))

    return make


def test_it_evaluates_before_during_and_after(make_model: Any, run_folder: Path, small_data: Dataset) -> None:
    callback = RankingEvalCallback(eval_freq=24, ks=(5, 10), select="ndcg@10")
    model = make_model()
    model.learn(60, callback=callback)
    assert [h["timesteps"] for h in callback.history] == [0, 24, 48, 60]
    before = DiffusionPolicy.load(run_folder)
    expected = evaluate(before.scorer(small_data), small_data, "valid", ks=(5, 10)).means()
    assert {k.removeprefix("valid/"): v for k, v in callback.history[0].items() if "valid/" in k} == expected
    now = evaluate(model.policy.actor.scorer(small_data), small_data, "valid", ks=(5, 10)).means()
    assert callback.history[-1]["valid/ndcg@10"] == now["ndcg@10"]
    assert (
        callback.history[0]["policy/kl_to_pretrained"]
        == 0.0
        < callback.history[-1]["policy/kl_to_pretrained"]
    )


def test_the_best_weights_are_stored_and_loaded(make_model: Any, tmp_path: Path, make_envs: MakeEnvs) -> None:
    callback = RankingEvalCallback(12, best_model_save_path=tmp_path / "best", ks=(5,), select="ndcg@5")
    model = make_model()
    with pytest.raises(ValueError, match="no weights to load"):
        callback.load_best()
    model.learn(240, callback=callback)
    values = [h["valid/ndcg@5"] for h in callback.history]
    assert callback.best_value == max(values) > values[-1]  # otherwise the test is vacuous
    assert callback.best_timesteps == callback.history[int(np.argmax(values))]["timesteps"]
    assert callback.evaluate().means()["ndcg@5"] == values[-1]
    callback.load_best()
    assert callback.evaluate().means()["ndcg@5"] == callback.best_value
    saved = PPO.load(tmp_path / "best" / "best_model", env=make_envs(), device="cpu")
    assert evaluate_model(saved, "valid", ks=(5,)).means()["ndcg@5"] == callback.best_value


def test_metrics_are_logged(make_model: Any, tmp_path: Path) -> None:
    model = make_model()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(48, callback=[RankingEvalCallback(24, ks=(5,), select="ndcg@5"), ChainLogCallback()])
    header, *rows = (tmp_path / "progress.csv").read_text().splitlines()
    names = header.split(",")
    assert {"valid/ndcg@5", "valid/recall@5", "valid/coverage@5", "policy/kl_to_pretrained"} <= set(names)
    assert {"rollout/clipped_share", "policy/std_min", "rollout/logprob_sum", "reward/ndcg"} <= set(names)
    assert len(rows) >= 3


def test_the_divergence_is_that_of_the_gaussians(make_envs: MakeEnvs, make_policy: Any) -> None:
    """Compare with torch's divergence, step by step along the chain."""
    policy, reference = make_policy(seed=1).eval(), make_policy(seed=2).eval()
    problem = denoising_problem(make_envs())
    u = problem.initial_state(torch.as_tensor(problem.users))
    total = 0.0
    with torch.no_grad():
        for t in range(3):
            mean, std = policy.mean(u, t), policy.std[t]
            a, b = (torch.distributions.Normal(m, std) for m in (mean, reference.mean(u, t)))
            total += float(torch.distributions.kl_divergence(a, b).mean())
            u = mean
    assert divergence(policy, reference, problem) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("kind", ["folder", "policy"])
def test_the_reference_may_be_passed(make_model: Any, make_policy: Any, tmp_path: Path, kind: str) -> None:
    other = make_policy(seed=4)
    other.save(tmp_path / "other")
    callback = RankingEvalCallback(100, reference=other if kind == "policy" else tmp_path / "other", ks=(20,))
    make_model().learn(12, callback=callback)
    assert callback.history[0]["policy/kl_to_pretrained"] > 0


@pytest.mark.parametrize("kind", ["batched", "synchronous", "turns", "dummy"])
def test_rewards_on_all_lists_receive_the_models_lists(
    make_model: Any, small_data: Dataset, kind: str
) -> None:
    """This holds for every sub-environment and every alternating hold-out, but no other environment."""
    settings: dict[str, Any] = {"data": small_data, "num_steps": 3, "reward": "coverage", "k": 5}
    settings |= {"relevance": "holdout"}
    if kind == "batched":
        made: Any = DenoisingVectorEnv(num_envs=4, **settings)
        problems = [made.problem]
    elif kind == "turns":
        each = [
            DenoisingVectorEnv(
                num_envs=4, autoreset_mode="Disabled", relevance_kwargs={"seed": n}, **settings
            )
            for n in range(2)
        ]
        made, problems = InTurns(each, seed=0), [env.problem for env in each]
    else:
        singles = [DenoisingEnv(**settings) for _ in range(4)]
        problems = [env.problem for env in singles]
        makers = [lambda env=env: env for env in singles]  # type: ignore[misc]
        made = (
            DummyVecEnv(makers)
            if kind == "dummy"
            else SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        )
    fresh = DenoisingEnv(**settings).problem
    before = lists_of(fresh.reward_fn)
    envs = made if kind == "dummy" else to_sb3_vec_env(made)
    model = make_model(envs)
    model.learn(12, callback=RankingEvalCallback(12))
    score = model_scorer(model)
    for problem in problems:
        assert torch.equal(lists_of(problem.reward_fn), problem.reward_fn.context.lists_by(score))
    assert torch.equal(lists_of(fresh.reward_fn), before)
    assert torch.equal(lists_of(DenoisingEnv(**settings).problem.reward_fn), before)


@pytest.mark.parametrize(
    "goal",
    [
        {"relevance": "validation"},
        {"relevance": "recent", "reward": "racs", "reward_kwargs": {"neighbor_relevance": "validation"}},
    ],
)
def test_a_reward_on_validation_items_selects_by_other_users(
    make_model: Any, make_envs: MakeEnvs, small_data: Dataset, goal: dict[str, Any]
) -> None:
    model = make_model(make_envs(**goal))
    callback = RankingEvalCallback(12)
    model.learn(12, callback=callback)
    found, others = callback.evaluate(), denoising_problem(model.get_env()).selecting
    assert others is not None and 0 < len(found.users) < small_data.num_users
    assert set(found.users.tolist()) <= set(others.tolist())
    assert callback.history[-1]["valid/ndcg@20"] == found.means()["ndcg@20"]
    assert len(callback.evaluate("test").users) > len(found.users)  # later tests are not affected


def lists_of(reward: Reward) -> torch.Tensor:
    """Return the lists (U, K) of the coverage reward."""
    assert isinstance(reward, Coverage)
    return reward.lists


def test_other_policies_are_scored_through_the_environment(small_data: Dataset, make_envs: MakeEnvs) -> None:
    """Test vector and single environments, with normalised observations or not."""
    settings: dict[str, Any] = {"num_steps": 3, "reward": "ndcg", "relevance": "train", "k": 5}
    model = PPO("MultiInputPolicy", make_envs(), n_steps=3, batch_size=12, seed=0, device="cpu")
    callback = RankingEvalCallback(1000, ks=(5,), select="recall@5")
    model.learn(12, callback=callback)
    assert [h["timesteps"] for h in callback.history] == [0, 12]
    assert "policy/kl_to_pretrained" not in callback.history[0]
    found = evaluate_model(model, ks=(5,)).means()
    model.set_env(DummyVecEnv([lambda: DenoisingEnv(small_data, **settings)] * 4))
    assert evaluate_model(model, ks=(5,)).means() == found
    normal = VecNormalize(make_envs(), norm_obs_keys=["t", "u"])
    model = PPO("MultiInputPolicy", normal, n_steps=3, batch_size=12, seed=0, device="cpu")
    model.learn(12)
    first = evaluate_model(model, ks=(5,)).means()
    normal.obs_rms["u"].mean += 1.0  # type: ignore[index]
    assert evaluate_model(model, ks=(5,)).means() != first


def test_clipping_is_logged(make_model: Any, make_envs: MakeEnvs) -> None:
    model = make_model(make_envs(bound=1.0))
    model.policy.actor.std.fill_(1.0)
    model.learn(12, callback=ChainLogCallback(), log_interval=None)
    assert 0.2 < model.logger.name_to_value["rollout/clipped_share"] < 0.5
    model = make_model()
    model.learn(12, callback=ChainLogCallback(), log_interval=None)
    assert model.logger.name_to_value["rollout/clipped_share"] == 0.0


# ---------------------------------------------------------------------- errors


def test_wrong_use_is_refused(make_model: Any, make_envs: MakeEnvs, make_policy: Any) -> None:
    with pytest.raises(ValueError, match="eval_freq=0 must be at least 1"):
        RankingEvalCallback(0)
    often: Any = "often"
    with pytest.raises(ValueError, match="eval_freq must be a whole number, found 'often'"):
        RankingEvalCallback(often)
    with pytest.raises(ValueError, match=r"select must name metrics among .*ndcg@10.* found 'ndcg@7'"):
        make_model().learn(12, callback=RankingEvalCallback(12, select="ndcg@7"))
    model = make_model()
    model.env = None
    with pytest.raises(ValueError, match="the model has no environment"):
        evaluate_model(model)
    cart: Any = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match="no denoising environment of refit_env"):
        cart.learn(8, callback=RankingEvalCallback(12))
    sac: Any = SAC("MlpPolicy", "Pendulum-v1", device="cpu")
    with pytest.raises(ValueError, match="SAC has none"):
        sac.learn(8, callback=ChainLogCallback())
    policy = make_policy()
    policy.backbone.name = "other"
    with pytest.raises(ValueError, match="actor's backbone is 'other', the environment's 'diffrec'"):
        check_actor(policy, denoising_problem(make_envs()))


def test_it_learns_on_the_vector_environment_of_tensors(small_data: Dataset, make_model: Any) -> None:
    vector = DenoisingVectorEnv(small_data, num_envs=4, num_steps=3, backend="torch", reward="ndcg", k=5)
    callback = RankingEvalCallback(12)
    make_model(to_sb3_vec_env(vector)).learn(24, callback=callback)
    assert len(callback.history) == 3
