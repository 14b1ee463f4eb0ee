"""The adapter returns the same as SB3's DummyVecEnv over single environments."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import chain
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import ClipReward, DictInfoToList, RecordEpisodeStatistics, TransformReward
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from agents.sb3 import GymVecEnv, to_sb3_vec_env
from refit_env.data import Dataset
from refit_env.envs import DenoisingEnv, DenoisingVectorEnv

MakeEnvs = Callable[..., GymVecEnv]
SETTINGS: dict[str, Any] = {"num_steps": 3, "reward": "racs", "relevance": "train", "k": 5}


def play(envs: Any, steps: int, actions: Callable[[int], Any]) -> list[Any]:
    """Run the seeded environments, and return the first observations and the results of every step."""
    envs.seed(5)
    results: list[Any] = [envs.reset(), [dict(info) for info in envs.reset_infos]]
    for n in range(steps):
        observation, reward, done, infos = envs.step(actions(n))
        results.append((observation, reward, done, infos, [dict(info) for info in envs.reset_infos]))
    return results


def assert_equal(a: Any, b: Any, path: str = "") -> None:
    """Assert bitwise equality, types of arrays included; ``episode`` and missing false values may differ."""
    if isinstance(a, dict):
        ignored = {"episode", "TimeLimit.truncated"}
        assert a.keys() - ignored == b.keys() - ignored, path
        assert bool(a.get("TimeLimit.truncated")) == bool(b.get("TimeLimit.truncated")), path
        for name in a.keys() - ignored:
            assert_equal(a[name], b[name], f"{path}/{name}")
    elif isinstance(a, tuple | list):
        assert len(a) == len(b), path
        for n, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{path}/{n}")
    else:
        np.testing.assert_array_equal(a, b, err_msg=path)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            assert a.dtype == b.dtype, path


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_it_equals_single_environments(small_data: Dataset, backend: str, mode: str) -> None:
    generator = np.random.default_rng(0)
    actions = [generator.random((4, 40), dtype=np.float32) for _ in range(7)]
    vector = DenoisingVectorEnv(small_data, num_envs=4, backend=backend, autoreset_mode=mode, **SETTINGS)
    ours = play(to_sb3_vec_env(vector), 7, lambda n: actions[n])
    single = play(DummyVecEnv([lambda: DenoisingEnv(small_data, **SETTINGS)] * 4), 7, lambda n: actions[n])
    if backend == "torch":  # its rewards are float32, the terms in Python numbers differ in the last places
        for mine, theirs in ((ours, single),):
            for a, b in zip(mine[2:], theirs[2:], strict=True):
                for x, y in zip(a[3], b[3], strict=True):
                    for name in ("n_k", "n_sim_k"):
                        assert x.pop(name, None) == pytest.approx(y.pop(name, None))
    assert_equal(ours, single)


def cart(limit: int) -> Callable[[], gym.Env[Any, Any]]:
    return lambda: TimeLimit(gym.make("CartPole-v1").unwrapped, limit)


def test_episodes_of_different_lengths_and_truncation() -> None:
    """CartPole ends at different times, and is truncated after twenty steps."""
    actions = np.random.default_rng(1).integers(0, 2, (90, 3))
    sync = SyncVectorEnv([cart(20)] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    ours = play(to_sb3_vec_env(sync), 90, lambda n: actions[n])
    single = play(DummyVecEnv([cart(20)] * 3), 90, lambda n: actions[n])
    assert_equal(ours, single)
    infos = [info for step in ours[2:] for info in step[3]]
    assert any(info.get("TimeLimit.truncated") for info in infos)
    assert any(info.get("TimeLimit.truncated") is False for info in infos)
    ends = [step[2].tolist() for step in ours[2:]]
    assert sum(any(end) and not all(end) for end in ends) > 4


def test_episodes_have_the_infos_of_monitor() -> None:
    actions = np.random.default_rng(1).integers(0, 2, (90, 3))
    ours = play(
        to_sb3_vec_env(SyncVectorEnv([cart(20)] * 3, autoreset_mode=AutoresetMode.SAME_STEP)),
        90,
        lambda n: actions[n],
    )
    theirs = play(DummyVecEnv([lambda: Monitor(cart(20)())] * 3), 90, lambda n: actions[n])
    found = [[info.get("episode") for info in step[3]] for step in ours[2:]]
    wanted = [[info.get("episode") for info in step[3]] for step in theirs[2:]]
    for a, b in zip(chain(*found), chain(*wanted), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a["r"], a["l"]) == (b["r"], b["l"]) and a["t"] >= 0


def test_statistics_of_a_wrapper_are_kept(small_data: Dataset) -> None:
    vector: Any = RecordEpisodeStatistics(DenoisingVectorEnv(small_data, num_envs=2, **SETTINGS))
    infos = play(to_sb3_vec_env(vector), 3, lambda _: np.zeros((2, 40), np.float32))[-1][3]
    assert infos[1]["episode"]["l"] == 3


def test_returned_arrays_never_change(make_envs: MakeEnvs) -> None:
    envs = make_envs()
    first = envs.reset()
    kept = {name: value.copy() for name, value in first.items()}
    answers = [envs.step(np.full((4, 40), n, np.float32)) for n in range(9)]
    assert all(np.array_equal(first[name], kept[name]) for name in kept)
    assert [float(a[0]["u"][0, 0]) for a in answers[:2]] == [0.0, 1.0]
    assert answers[2][3][0]["terminal_observation"]["u"][0] == 2.0
    answers[0][3][0]["mine"] = 1  # SB3's wrappers write into infos
    assert all("mine" not in info for _, _, _, infos in answers[1:] for info in infos)
    assert "mine" not in answers[0][3][1]


def test_seeds_and_options_apply_to_one_reset(make_envs: MakeEnvs) -> None:
    a, b = make_envs(), make_envs()
    a.seed(3), b.seed(3)
    assert_equal(a.reset(), b.reset())
    a.set_options({"user": 7})
    a.reset()
    assert [info["user"] for info in a.reset_infos] == [7] * 4
    a.set_options([{"user": n} for n in (1, 2, 3, 4)])
    a.reset()
    assert [info["user"] for info in a.reset_infos] == [1, 2, 3, 4]
    a.reset()
    assert [info["user"] for info in a.reset_infos] != [1, 2, 3, 4]
    a.set_options([{"user": 1}, {}, {}, {}])
    with pytest.raises(ValueError, match="option 'user' is missing for sub-environment 1"):
        a.reset()


@pytest.mark.parametrize("begun", [False, True])
def test_separate_sub_environments_accept_their_own_options(small_data: Dataset, begun: bool) -> None:
    """As in DummyVecEnv, options may differ, and be set for some sub-environments only."""
    single = lambda: DenoisingEnv(small_data, **SETTINGS)  # noqa: E731
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
        ours = to_sb3_vec_env(SyncVectorEnv([single] * 4, autoreset_mode=mode))
        theirs = DummyVecEnv([single] * 4)
        for options in ([{"user": n} for n in (1, 2, 1, 4)], [{"user": 7}, {}, {"user": 3}, {}], {"user": 5}):
            answers = []
            for envs in (ours, theirs):
                if begun:
                    envs.reset()
                envs.seed(11)
                envs.set_options(options)
                answers.append((envs.reset(), [dict(info) for info in envs.reset_infos]))
                answers.append(envs.step(np.zeros((4, 40), np.float32))[:3])
            assert_equal(answers[0], answers[2])
            assert_equal(answers[1], answers[3])
    ours.set_options([{"user": 1}] * 3)
    with pytest.raises(ValueError, match="set_options: 3 mappings, 4 sub-environments"):
        ours.reset()


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_actions_of_every_type_are_accepted(make_envs: MakeEnvs, backend: str) -> None:
    """They cause no warning, in either backend."""
    actions = np.random.default_rng(0).random((4, 40), dtype=np.float32)
    fixed = actions.copy()
    fixed.flags.writeable = False
    envs = make_envs(backend=backend, num_steps=5)
    envs.reset()
    given: list[Any] = [
        fixed,
        actions.tolist(),
        actions[:, ::-1].copy()[:, ::-1],
        np.asfortranarray(actions),
        actions.astype(np.float64),
        torch.from_numpy(actions).requires_grad_(),
        torch.from_numpy(actions).double(),
        list(actions),
    ]
    for one in given:
        observation, _, done, infos = envs.step(one)
        seen = (
            np.stack([info["terminal_observation"]["u"] for info in infos])
            if done.all()
            else observation["u"]
        )
        np.testing.assert_array_equal(seen, actions)
    for wrong in (np.full((4, 40), np.nan, np.float32), actions[:3], "go"):
        with pytest.raises(ValueError, match=r"is nan|of shape|no array"):
            envs.step(wrong)


def test_reset_infos_hold_the_users_of_the_next_episodes(make_envs: MakeEnvs) -> None:
    envs = make_envs()
    envs.seed(0)
    envs.reset()
    before = [info["user"] for info in envs.reset_infos]
    for _ in range(3):
        _, _, _, infos = envs.step(np.zeros((4, 40), np.float32))
    assert [info["user"] for info in infos] == before
    assert [info["user"] for info in envs.reset_infos] != before


def test_attributes_and_methods(make_envs: MakeEnvs, small_data: Dataset) -> None:
    envs = make_envs()
    assert envs.get_attr("problem")[3].dataset is small_data and envs.has_attr("spec")
    assert len(envs.get_attr("num_envs", indices=[0, 2])) == 2 and envs.get_attr("num_envs", indices=1) == [4]
    assert not envs.has_attr("nothing")
    envs.set_attr("mark", 5)
    assert envs.get_attr("mark") == [5] * 4 and envs.env.mark == 5  # type: ignore[attr-defined]
    for some in (0, -1, [0, 0, 1, 2], np.int64(2)):
        with pytest.raises(ValueError, match="share their attributes"):
            envs.set_attr("mark", 6, indices=some)  # type: ignore[arg-type]
    envs.set_attr("mark", 7, indices=[-1, 0, 1, -2])
    assert envs.get_attr("mark", indices=-1) == [7] and envs.get_attr("mark", np.int64(3)) == [7]  # type: ignore[arg-type]
    for call in (envs.get_attr, lambda name, i: envs.set_attr(name, 1, i), envs.env_is_wrapped):
        with pytest.raises(IndexError, match=r"indices=.*no sub-environment -?[45], only 0\.\.3"):
            call(Monitor if call == envs.env_is_wrapped else "mark", [0, 4])  # type: ignore[arg-type]
        with pytest.raises(IndexError, match=r"no sub-environment -5"):
            call(Monitor if call == envs.env_is_wrapped else "mark", -5)  # type: ignore[arg-type]
    assert envs.env_method("__repr__") == [repr(envs.env)] * 4
    envs.close()
    assert envs.env.closed


def test_attributes_reach_through_wrappers(small_data: Dataset) -> None:
    inner = DenoisingVectorEnv(small_data, num_envs=2, **SETTINGS)
    envs = to_sb3_vec_env(ClipReward(inner, 0.0, 0.5))  # type: ignore[arg-type]
    assert envs.get_attr("problem")[0] is inner.problem
    envs.set_attr("render_mode", "ansi")
    assert inner.render_mode == "ansi"
    assert envs.env_is_wrapped(ClipReward) == [True, True]
    assert envs.env_is_wrapped(RecordEpisodeStatistics, indices=0) == [False]


def test_separate_sub_environments_are_accessed_one_by_one(small_data: Dataset) -> None:
    fn = [lambda: TimeLimit(DenoisingEnv(small_data, **SETTINGS), 9)] * 3
    envs = to_sb3_vec_env(SyncVectorEnv(fn, autoreset_mode=AutoresetMode.SAME_STEP))
    envs.set_attr("mark", 5, indices=[0, 2])
    assert [hasattr(env.unwrapped, "mark") or hasattr(env, "mark") for env in envs.env.envs] == [
        True,
        False,
        True,
    ]  # type: ignore[attr-defined]
    assert envs.get_attr("mark", indices=2) == envs.get_attr("mark", indices=-1) == [5]
    envs.set_attr("mark", 6, indices=-1)
    assert envs.get_attr("mark", indices=[0, -1]) == [5, 6]
    assert envs.env_is_wrapped(TimeLimit) == [True] * 3 and envs.env_is_wrapped(Monitor) == [True] * 3
    envs.reset()
    assert envs.env_method("get_wrapper_attr", "spec", indices=[1]) == [None]
    assert len(envs.env_method("get_wrapper_attr", "spec", indices=[-1, -3])) == 2


def test_images_are_tiled(make_envs: MakeEnvs) -> None:
    envs = make_envs(4, render_mode="rgb_array")
    envs.reset()
    picture = envs.render()
    assert picture is not None and picture.shape == (900, 1600, 3) and picture.dtype == np.uint8
    quiet = make_envs(2)
    with pytest.warns(UserWarning, match="images need 'rgb_array'"):
        assert quiet.get_images() == [None, None]


def test_wrappers_and_evaluation_of_sb3_work_on_it(make_envs: MakeEnvs) -> None:
    envs = VecNormalize(make_envs(), norm_obs_keys=["t"])
    envs.reset()
    for _ in range(4):
        envs.step(np.zeros((4, 40), np.float32))
    with pytest.warns(UserWarning, match="already wrapped"):
        watched = VecMonitor(make_envs(), info_keywords=("user",))
    watched.reset()
    for _ in range(3):
        _, _, _, infos = watched.step(np.zeros((4, 40), np.float32))
    assert infos[0]["episode"]["l"] == 3 and "user" in infos[0]["episode"]
    model = PPO("MultiInputPolicy", make_envs(), n_steps=3, batch_size=12, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rewards, lengths = evaluate_policy(model, make_envs(), 8, return_episode_rewards=True)
    assert lengths == [3] * 8 and max(rewards) > 0  # type: ignore[type-var, operator, arg-type]


# ---------------------------------------------------------------------- errors


def test_rewards_that_are_not_finite_are_refused_before_training(
    small_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(scores: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
        return torch.where(users == 17, torch.nan, 1.0)

    with pytest.raises(ValueError, match="reward 'broken' returned nan for user 17"):
        to_sb3_vec_env(DenoisingVectorEnv(small_data, num_envs=2, **(SETTINGS | {"reward": broken})))

    def compute(scores: torch.Tensor, users: torch.Tensor, lists: torch.Tensor) -> Any:
        return broken(scores, users), {"part": 2.0 * broken(scores, users)}

    vector = DenoisingVectorEnv(small_data, num_envs=2, **SETTINGS)
    monkeypatch.setattr(vector.problem.reward_fn, "compute", compute)
    with pytest.raises(ValueError, match=r"reward of user 17 is nan at the start vector .*terms: part nan"):
        to_sb3_vec_env(vector)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rewards_that_stop_being_finite_stop_training(
    small_data: Dataset, make_envs: MakeEnvs, value: float
) -> None:
    inner = DenoisingVectorEnv(small_data, num_envs=2, **SETTINGS)
    vector: Any = TransformReward(inner, lambda r: np.where(r > 0, value, r))
    envs = to_sb3_vec_env(vector)
    model = PPO("MultiInputPolicy", envs, n_steps=3, batch_size=6, device="cpu")
    before = {k: v.clone() for k, v in model.policy.state_dict().items()}
    with pytest.raises(ValueError, match=rf"reward of sub-environment \d \(user \d+\) is {value}"):
        model.learn(600)
    assert all(torch.equal(before[k], v) for k, v in model.policy.state_dict().items())


def test_wrong_environments_are_refused(small_data: Dataset) -> None:
    single: Any = DenoisingEnv(small_data, **SETTINGS)
    with pytest.raises(TypeError, match="DenoisingEnv is not a gymnasium"):
        to_sb3_vec_env(single)
    listed: Any = DictInfoToList(ClipReward(DenoisingVectorEnv(small_data, **SETTINGS), 0.0, 1.0))  # type: ignore[arg-type]
    for envs in (listed, TransformReward(listed, lambda r: r)):
        with pytest.raises(ValueError, match=r"DictInfoToList splits infos .*remove the wrapper"):
            to_sb3_vec_env(envs)
    with pytest.raises(ValueError, match="autoreset_mode 'NextStep'"):
        to_sb3_vec_env(SyncVectorEnv([cart(20)]))
