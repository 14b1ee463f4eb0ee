"""Tests of SAC, TD3 and TQC on low-rank residual actions: training, evaluation, loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import VectorEnv
from sb3_contrib import TQC
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from agents.sb3 import (
    DiffusionActorCriticPolicy,
    GymVecEnv,
    RankingEvalCallback,
    evaluate_model,
    to_sb3_vec_env,
)
from refit_env.data import Dataset
from refit_env.envs import DenoisingVectorEnv
from refit_env.envs.wrappers.vector import FactorObservation, LowRankAction, ResidualAction
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy

RANK = 4


@pytest.fixture
def make_small(small_data: Dataset, run_folder: Path) -> Any:
    def make(backend: str = "numpy", mode: str = "SameStep") -> GymVecEnv:
        env: VectorEnv[Any, Any, Any] = DenoisingVectorEnv(
            small_data,
            num_envs=4,
            num_steps=3,
            reward="ndcg",
            relevance="train",
            k=5,
            backend=backend,
            autoreset_mode=mode,
        )
        env = LowRankAction(ResidualAction(env, str(run_folder)), rank=RANK)
        return to_sb3_vec_env(FactorObservation(env, rank=RANK))

    return make


def make_model(cls: type[OffPolicyAlgorithm], envs: GymVecEnv, **kwargs: Any) -> OffPolicyAlgorithm:
    policy = "MultiInputPolicy" if hasattr(envs.observation_space, "spaces") else "MlpPolicy"
    given: dict[str, Any] = {
        "learning_starts": 12,
        "batch_size": 16,
        "buffer_size": 500,
        "gamma": 1.0,
        "seed": 0,
    }
    given |= {"policy_kwargs": {"net_arch": [16]}, "device": "cpu"}
    return cls(policy, envs, **(given | kwargs))


@pytest.mark.parametrize("cls", [SAC, TD3, TQC])
def test_they_train_evaluate_and_load(cls: Any, make_small: Any, tmp_path: Path) -> None:
    model = make_model(cls, make_small())
    assert model.action_space.shape == (RANK,)
    before = {k: v.clone() for k, v in model.policy.state_dict().items()}
    callback = RankingEvalCallback(24, ks=(5,), select="ndcg@5")
    model.learn(60, callback=callback)
    assert any(not torch.equal(before[k], v) for k, v in model.policy.state_dict().items())
    assert [h["timesteps"] for h in callback.history] == [0, 24, 48, 60]
    assert callback.history[-1]["valid/ndcg@5"] == evaluate_model(model, "valid", ks=(5,)).means()["ndcg@5"]
    assert float(np.mean(model.ep_info_buffer[-1]["l"])) == 3  # type: ignore[index]
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=make_small(), device="cpu")
    for name, value in model.policy.state_dict().items():
        assert torch.equal(value, loaded.policy.state_dict()[name]), name
    observation = make_small().reset()
    actions = [each.predict(observation, deterministic=True)[0] for each in (model, loaded)]
    np.testing.assert_array_equal(*actions)
    assert evaluate_model(loaded, ks=(5,)).means() == evaluate_model(model, ks=(5,)).means()


def test_the_last_observation_of_an_episode_goes_into_the_replay_buffer(make_small: Any) -> None:
    """The buffer must not hold the next episode's first observation: t is T, and the factors are u_0's."""
    model = make_model(SAC, make_small(), learning_starts=100)
    model.learn(24)
    buffer: Any = model.replay_buffer
    ends = buffer.dones[:6].astype(bool)  # (6, 4)
    assert ends.sum() == 8 and ends[2].all() and ends[5].all() and not buffer.timeouts[:6].any()
    steps = buffer.next_observations["t"][:6, :, 0]  # (6, 4)
    np.testing.assert_array_equal(steps, np.array([1, 2, 3, 1, 2, 3])[:, None].repeat(4, 1))
    factors = next(name for name in buffer.next_observations if name != "t")
    assert not np.array_equal(buffer.next_observations[factors][2], buffer.observations[factors][3])


@pytest.mark.parametrize(
    ("backend", "mode"), [("torch", "SameStep"), ("numpy", "Disabled"), ("torch", "Disabled")]
)
def test_backends_and_resets_give_the_same_episodes(make_small: Any, backend: str, mode: str) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (7, 4, RANK)).astype(np.float32)
    results = []
    for envs in (make_small(), make_small(backend, mode)):
        envs.seed(0)
        steps = [(envs.reset(), None, None, [{}] * 4)] + [envs.step(action) for action in actions]
        results.append(steps)
    for (a, ra, da, ia), (b, rb, db, ib) in zip(*results, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], atol=1e-5)
        if ra is not None:
            np.testing.assert_allclose(ra, rb, atol=1e-5)
            np.testing.assert_array_equal(da, db)
        for x, y in zip(ia, ib, strict=True):
            assert x.keys() == y.keys()
            if "terminal_observation" in x:
                for name, value in x["terminal_observation"].items():
                    np.testing.assert_allclose(value, y["terminal_observation"][name], atol=1e-5)


def test_a_zero_action_is_the_pretrained_model(
    make_small: Any, run_folder: Path, small_data: Dataset
) -> None:
    model = make_model(TD3, make_small())
    with torch.no_grad():
        for parameter in model.policy.actor.mu.parameters():  # type: ignore[union-attr]
            parameter.zero_()
    pretrained = evaluate(DiffusionPolicy.load(run_folder).scorer(small_data), small_data, "test", ks=(5,))
    assert evaluate_model(model, ks=(5,)).means() == pretrained.means()


def test_the_diffusion_policy_does_not_act_there(
    make_small: Any, run_folder: Path, small_data: Dataset
) -> None:
    """Both wrong action spaces are refused at construction, low-rank or only residual."""
    actor = {"actor": {"run": str(run_folder)}}
    with pytest.raises(ValueError, match="with LowRankAction an action is not the next"):
        PPO(DiffusionActorCriticPolicy, make_small(), n_steps=3, batch_size=12, policy_kwargs=actor)
    inner = DenoisingVectorEnv(small_data, num_envs=4, num_steps=3)
    for env in (
        ResidualAction(inner, str(run_folder)),
        LowRankAction(ResidualAction(inner, str(run_folder)), 4),
    ):
        with pytest.raises(ValueError, match=r"with .*Action an action is not the next vector"):
            PPO(
                DiffusionActorCriticPolicy, to_sb3_vec_env(env), n_steps=3, batch_size=12, policy_kwargs=actor
            )


@pytest.mark.parametrize("cls", [SAC, TD3, DDPG, TQC])
def test_an_off_policy_algorithm_refuses_the_diffusion_policy(
    cls: Any, run_folder: Path, small_data: Dataset
) -> None:
    envs = to_sb3_vec_env(DenoisingVectorEnv(small_data, num_envs=4, num_steps=3))
    message = f"critic of actions, which {cls.__name__} needs: it is for PPO, A2C and TRPO"
    with pytest.raises(ValueError, match=message):
        cls(
            DiffusionActorCriticPolicy,
            envs,
            policy_kwargs={"actor": {"run": str(run_folder)}},
            buffer_size=100,
        )
