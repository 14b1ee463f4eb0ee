"""Tests of wrappers: harmless ones work, and those that change vectors are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from agents.sb3 import (
    ChainLogCallback,
    DiffusionActorCriticPolicy,
    GymVecEnv,
    RankingEvalCallback,
    to_sb3_vec_env,
)
from refit_env.data import Dataset
from refit_env.envs import DenoisingEnv, DenoisingVectorEnv
from refit_env.envs.wrappers.vector import GroupedUsers, ResidualAction

MakeEnvs = Callable[..., GymVecEnv]
SETTINGS: dict[str, Any] = {"num_steps": 3, "reward": "ndcg", "relevance": "train", "k": 5}


@pytest.fixture
def make_model(run_folder: Path) -> Callable[..., PPO]:
    def make(envs: Any, **kwargs: Any) -> PPO:
        given: dict[str, Any] = {"n_steps": 3, "batch_size": 12, "gamma": 1.0, "gae_lambda": 1.0, "seed": 0}
        given |= {"learning_rate": 3e-3, "policy_kwargs": {"actor": {"run": str(run_folder)}}}
        return PPO(DiffusionActorCriticPolicy, envs, device="cpu", **(given | kwargs))

    return make


HARMLESS: dict[str, Callable[[Any], VecEnv]] = {
    "VecNormalize of rewards": lambda e: VecNormalize(e, norm_obs=False),
    "VecNormalize of nothing": lambda e: VecNormalize(e, norm_obs_keys=[], norm_reward=False),
    "VecMonitor": lambda e: VecMonitor(VecNormalize(e, norm_obs=False)),
    "VecCheckNan": lambda e: VecCheckNan(e, raise_exception=True),
    "VecTransposeImage": VecTransposeImage,
    "VecFrameStack of one": lambda e: VecFrameStack(e, 1),
}


@pytest.mark.filterwarnings("ignore:The environment is already wrapped with a `Monitor`")
@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_harmless_wrappers_of_sb3_train_as_without_them(
    make_envs: MakeEnvs, make_model: Any, name: str, backend: str
) -> None:
    """The first rollout, with evaluations and callbacks, is the same."""
    found = []
    for wrap in (lambda e: e, HARMLESS[name]):
        model = make_model(wrap(make_envs(backend=backend)))
        ranking = RankingEvalCallback(12, ks=(5,), select="ndcg@5")
        model.learn(12, callback=[ranking, ChainLogCallback()])
        found.append((model.rollout_buffer.actions.copy(), ranking.history[0]["valid/ndcg@5"]))
        assert len(ranking.history) == 2
    assert np.array_equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]


CHANGED: dict[str, tuple[Callable[[Any], VecEnv], str]] = {
    "all observations": (VecNormalize, r"VecNormalize changes t, u, .*pass norm_obs=False"),
    "u alone": (lambda e: VecNormalize(e, norm_obs_keys=["u"]), "VecNormalize changes u, "),
    "t alone": (lambda e: VecNormalize(e, norm_obs_keys=["t"]), "VecNormalize changes t, "),
    "not in training": (lambda e: VecNormalize(e, training=False), "VecNormalize changes t, u"),
    "beneath others": (lambda e: VecCheckNan(VecMonitor(VecNormalize(e))), "VecNormalize changes t, u"),
    "frames": (lambda e: VecFrameStack(e, 2), "VecFrameStack stacks 2 vectors"),
    "one part": (lambda e: VecExtractDictObs(e, "u"), "VecExtractDictObs keeps only 'u'"),
}


@pytest.mark.filterwarnings("ignore:The environment is already wrapped with a `Monitor`")
@pytest.mark.parametrize("name", CHANGED)
def test_wrappers_of_sb3_that_change_vectors_are_refused(
    make_envs: MakeEnvs, make_model: Any, name: str
) -> None:
    wrap, message = CHANGED[name]
    with pytest.raises(ValueError, match=message):
        make_model(wrap(make_envs()))


def test_flattened_observations_that_are_normalised_are_refused(small_data: Dataset, make_model: Any) -> None:
    inner: Any = DenoisingVectorEnv(small_data, num_envs=4, autoreset_mode="Disabled", **SETTINGS)
    with pytest.raises(ValueError, match="VecNormalize changes observations"):
        make_model(VecNormalize(to_sb3_vec_env(vector.FlattenObservation(inner))))


def test_wrappers_that_are_added_later_are_refused(
    make_envs: MakeEnvs, make_model: Any, tmp_path: Path
) -> None:
    """Test wrappers added by set_env, by load, and without a callback."""
    model = make_model(make_envs())
    model.learn(12)
    model.save(tmp_path / "model")
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.set_env(VecNormalize(make_envs(), norm_obs_keys=["u"]))
    with pytest.raises(ValueError, match="VecNormalize changes u"):
        model.learn(12)
    assert all(value.equal(before[name]) for name, value in model.policy.state_dict().items())
    with pytest.raises(ValueError, match="VecNormalize changes u"):
        PPO.load(tmp_path / "model", env=VecNormalize(make_envs(), norm_obs_keys=["u"]), device="cpu")
    PPO.load(tmp_path / "model", device="cpu").set_env(make_envs())


def test_changed_steps_are_detected_without_an_environment(make_envs: MakeEnvs, make_model: Any) -> None:
    """``predict`` detects changed observations by their step."""
    model = make_model(make_envs())
    observation = {"t": np.full((2, 1), 0.57, np.float32), "u": np.zeros((2, 40), np.float32)}
    with pytest.raises(ValueError, match=r"t = 0\.57 is not a step of a chain: .*VecNormalize"):
        model.predict(observation)


class Noisy(gym.ObservationWrapper[Any, Any, Any]):
    """Keeps the space, but changes the values."""

    def observation(self, observation: Any) -> Any:
        return observation | {"u": observation["u"] + np.float32(0.1)}


SINGLE: dict[str, Callable[[Any], Any]] = {
    "Noisy": Noisy,
    "DelayObservation": lambda e: wrappers.DelayObservation(wrappers.FlattenObservation(e), 1),
    "TransformObservation": lambda e: wrappers.TransformObservation(e, lambda o: o, e.observation_space),
    "NormalizeObservation": lambda e: wrappers.NormalizeObservation(wrappers.FlattenObservation(e)),
    "FrameStackObservation": lambda e: wrappers.FrameStackObservation(e, 2),
    "MaxAndSkipObservation": lambda e: wrappers.MaxAndSkipObservation(wrappers.FlattenObservation(e), 2),
    "TransformAction": lambda e: wrappers.TransformAction(e, lambda a: 2 * a, e.action_space),
    "RescaleAction": lambda e: wrappers.RescaleAction(e, np.float32(-1), np.float32(1)),
    "StickyAction": lambda e: wrappers.StickyAction(e, 0.5),
}


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("kind", ["DummyVecEnv", "SyncVectorEnv"])
def test_wrappers_of_gymnasium_that_change_vectors_are_refused(
    small_data: Dataset, make_model: Any, name: str, kind: str
) -> None:
    make = lambda: SINGLE[name](DenoisingEnv(small_data, **SETTINGS))  # noqa: E731
    envs: Any
    if kind == "DummyVecEnv":
        envs = DummyVecEnv([make] * 2)
    else:
        envs = to_sb3_vec_env(SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.SAME_STEP))
    with pytest.raises(ValueError, match=f"{name} changes observations or actions"):
        make_model(envs, batch_size=6)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # of Gymnasium's DtypeObservation
def test_wrappers_of_gymnasium_that_keep_vectors_work(small_data: Dataset, make_model: Any) -> None:
    def make() -> Any:
        env: Any = wrappers.DtypeObservation(
            wrappers.FlattenObservation(wrappers.TimeLimit(DenoisingEnv(small_data, **SETTINGS), 3)),
            np.float64,
        )
        return Monitor(wrappers.RecordEpisodeStatistics(wrappers.TransformReward(env, lambda r: 2 * r)))

    model = make_model(DummyVecEnv([make] * 4))
    model.learn(12, callback=RankingEvalCallback(12, ks=(5,), select="ndcg@5"))
    envs: Any = DenoisingVectorEnv(small_data, num_envs=4, autoreset_mode="Disabled", **SETTINGS)
    envs = vector.RecordEpisodeStatistics(vector.NormalizeReward(GroupedUsers(envs, 2)))
    make_model(to_sb3_vec_env(vector.FlattenObservation(envs))).learn(12, callback=RankingEvalCallback(12))


def test_actions_that_are_not_next_vectors_are_refused(
    small_data: Dataset, make_model: Any, run_folder: Path
) -> None:
    """They are refused even if the boxes are equal."""
    inner = DenoisingVectorEnv(small_data, num_envs=4, num_steps=3)
    envs = to_sb3_vec_env(ResidualAction(inner, str(run_folder), bound=6.0))
    with pytest.raises(ValueError, match="with ResidualAction an action is not the next vector"):
        make_model(envs)
