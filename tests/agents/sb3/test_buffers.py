"""Tests of leave-one-out advantages in Stable-Baselines3: by hand, in a gradient, after loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers.vector import FlattenObservation
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from agents.sb3 import (
    DiffusionActorCriticPolicy,
    GymVecEnv,
    LeaveOneOutFlatRolloutBuffer,
    LeaveOneOutRolloutBuffer,
    to_sb3_vec_env,
)
from refit_env.data import Dataset
from refit_env.envs import DenoisingVectorEnv
from refit_env.envs.wrappers.vector import GroupedUsers

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
DICT = spaces.Dict({"u": spaces.Box(-1.0, 1.0, (2,), np.float32)})


@pytest.fixture
def make_grouped(small_data: Dataset) -> Any:
    """Return a factory of eight sub-environments of two users, adapted to SB3."""

    def made(flat: bool = False, group_size: int = 4, **kwargs: Any) -> GymVecEnv:
        settings: dict[str, Any] = {"num_steps": 3, "reward": "ndcg", "relevance": "train", "k": 5}
        envs: Any = DenoisingVectorEnv(
            small_data, num_envs=8, autoreset_mode="Disabled", **(settings | kwargs)
        )
        if group_size > 1:
            envs = GroupedUsers(envs, group_size)
        return to_sb3_vec_env(FlattenObservation(envs) if flat else envs)

    return made


def make_model(cls: Any, envs: GymVecEnv, run: Path, flat: bool = False, **kwargs: Any) -> Any:
    given: dict[str, Any] = {
        "n_steps": 6,
        "gamma": 1.0,
        "gae_lambda": 1.0,
        "learning_rate": 1e-3,
        "seed": 0,
        "rollout_buffer_class": LeaveOneOutFlatRolloutBuffer if flat else LeaveOneOutRolloutBuffer,
        "rollout_buffer_kwargs": {"group_size": 4},
    }
    if cls is A2C:
        given["use_rms_prop"] = False
    else:
        given["batch_size"] = 48
    policy_kwargs = {"actor": {"run": str(run)}}
    return cls(
        DiffusionActorCriticPolicy, envs, policy_kwargs=policy_kwargs, device="cpu", **(given | kwargs)
    )


def fill(
    buffer: RolloutBuffer,
    rewards: np.ndarray,
    starts: np.ndarray,
    observations: np.ndarray,
    value: float = 0.5,
) -> None:
    """Add a rollout (S, N) to a buffer; observations (S, N, D)."""
    flat, count = not isinstance(buffer, DictRolloutBuffer), rewards.shape[1]
    for seen, reward, start in zip(observations, rewards, starts, strict=True):
        shown: Any = seen if flat else {"u": seen}
        values = torch.full((count, 1), value)
        buffer.add(shown, np.zeros((count, 3)), reward, start, values, torch.zeros(count))


# ---------------------------------------------------------------------- by hand


@pytest.mark.parametrize("flat", [False, True])
def test_advantages_by_hand(flat: bool) -> None:
    """Two groups of three: the first has two chains of two steps, the other chains of one and of three."""
    cls: Any = LeaveOneOutFlatRolloutBuffer if flat else LeaveOneOutRolloutBuffer
    space: Any = spaces.Box(-1.0, 1.0, (2,), np.float32) if flat else DICT
    buffer = cls(4, space, BOX, device="cpu", gae_lambda=1.0, gamma=1.0, n_envs=6, group_size=3)
    starts = np.array([[1] * 6, [0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0] * 6], np.float32)
    rewards = np.array(
        [[0, 0, 0, 6, 0, 0], [3, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0], [1, 2, 3, 0, 2, 0]], np.float32
    )
    rng = np.random.default_rng(0)
    seen = rng.random((4, 6, 2), np.float32)  # the steps of one user's chains differ
    seen[0] = [[0.1, 0]] * 3 + [[0.2, 0]] * 3
    seen[1, 3:], seen[2, :3] = [0.3, 0.0], [0.4, 0.0]
    fill(buffer, rewards, starts, seen)
    buffer.compute_returns_and_advantage(torch.full((6, 1), 9.0), np.ones(6))
    # Returns: 3 0 0, then 1 2 3; and 6 0 0, then 0 2 1. Each minus the mean of the other two.
    first, second = [3.0, -1.5, -1.5], [-1.5, 0.0, 1.5]
    third, fourth = [6.0, -3.0, -3.0], [-1.5, 1.5, 0.0]
    expected = [first + third, first + fourth, second + fourth, second + fourth]
    np.testing.assert_allclose(buffer.advantages, expected, atol=1e-6)
    plain = RolloutBuffer(4, BOX, BOX, device="cpu", gae_lambda=1.0, gamma=1.0, n_envs=6)
    fill(plain, rewards, starts, rng.random((4, 6, 3), np.float32))
    plain.compute_returns_and_advantage(torch.full((6, 1), 9.0), np.ones(6))
    np.testing.assert_array_equal(buffer.returns, plain.returns)  # the critic's returns are unchanged


def rollout(**changes: Any) -> Any:
    """Return a buffer with one chain of each of four sub-environments, of two users."""
    settings: dict[str, Any] = {"n_envs": 4, "group_size": 2, "gamma": 1.0} | changes.pop("settings", {})
    buffer = LeaveOneOutRolloutBuffer(2, DICT, BOX, device="cpu", **settings)
    seen = np.zeros((2, 4, 2), np.float32)
    seen[0] = changes.get("first", [[0, 0], [0, 0], [1, 0], [1, 0]])
    starts = np.array(changes.get("starts", [[1] * 4, [0] * 4]), np.float32)
    fill(buffer, np.arange(8, dtype=np.float32).reshape(2, 4), starts, seen)
    return buffer


def test_partial_chains_and_mixed_groups_are_refused() -> None:
    last, over = torch.zeros(4, 1), np.ones(4)
    rollout().compute_returns_and_advantage(last, over)
    for torn in (np.array([1, 1, 1, 0]), np.zeros(4)):
        with pytest.raises(ValueError, match="n_steps=2 must hold whole chains"):
            rollout().compute_returns_and_advantage(last, torn)
    with pytest.raises(ValueError, match="n_steps=2 must hold whole chains"):
        rollout(starts=[[0, 1, 1, 1], [1, 0, 0, 0]]).compute_returns_and_advantage(last, over)
    foreign = [[0, 0], [0, 0], [1, 0], [1, 0.5]]
    with pytest.raises(ValueError, match=r"2\.\.3 do not begin the same chain at step 0.*GroupedUsers\(envs"):
        rollout(first=foreign).compute_returns_and_advantage(last, over)
    noisy = rollout(first=foreign, settings={"shared_start": False})
    noisy.compute_returns_and_advantage(last, over)
    # Returns 0+4, 1+5, 2+6, 3+7.
    np.testing.assert_allclose(noisy.advantages, [[-2, 2, -2, 2]] * 2)
    out_of_step = {"starts": [[1] * 4, [1, 0, 0, 0]], "settings": {"shared_start": False}}
    with pytest.raises(ValueError, match=r"0\.\.1 do not begin the same chain at step 1"):
        rollout(**out_of_step).compute_returns_and_advantage(last, over)


def test_wrong_settings_are_refused_at_construction() -> None:
    with pytest.raises(ValueError, match=r"gamma=0\.99 must be 1"):
        rollout(settings={"gamma": 0.99})
    for wrong in (3, 1, 0):
        with pytest.raises(ValueError, match=rf"group_size={wrong} must be at least 2 and divide the 4"):
            rollout(settings={"group_size": wrong})
    with pytest.raises(ValueError, match="group_size must be a whole number, found 'x'"):
        rollout(settings={"group_size": "x"})
    box: Any = BOX
    with pytest.raises(ValueError, match="are a Box: pass rollout_buffer_class=LeaveOneOutFlatRolloutBuffer"):
        LeaveOneOutRolloutBuffer(2, box, BOX, gamma=1.0, n_envs=4, group_size=2)
    with pytest.raises(ValueError, match="are a Dict: pass rollout_buffer_class=LeaveOneOutRolloutBuffer"):
        LeaveOneOutFlatRolloutBuffer(2, DICT, BOX, gamma=1.0, n_envs=4, group_size=2)


# ---------------------------------------------------------------------- in the algorithms


def collect(model: Any) -> None:
    """Fill the model's buffer in the same way as ``learn``."""
    _, callback = model._setup_learn(48)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)


def test_ppos_first_gradient_is_the_surrogates(make_grouped: Any, run_folder: Path) -> None:
    """It equals that of -mean(A log pi), with A from the rewards: at the first step the ratio is one."""
    settings = {"n_epochs": 1, "normalize_advantage": False, "vf_coef": 0.0, "max_grad_norm": 1e9}
    model = make_model(PPO, make_grouped(), run_folder, **settings)
    collect(model)
    buffer = model.rollout_buffer
    reward = torch.from_numpy(buffer.rewards.reshape(2, 3, 2, 4).sum(1))  # chain, group, position in it
    others = (reward.sum(-1, keepdim=True) - reward) / 3
    advantage = (reward - others)[:, None].expand(2, 3, 2, 4).reshape(48)  # each step of a chain
    assert advantage.abs().max() > 0.01
    obs = {k: torch.from_numpy(v.reshape(48, -1).copy()) for k, v in buffer.observations.items()}
    actions = torch.from_numpy(buffer.actions.reshape(48, -1).copy())
    _, log_prob, _ = model.policy.evaluate_actions(obs, actions)
    parameters = list(model.policy.actor.parameters())
    expected = torch.autograd.grad(-(advantage * log_prob).mean(), parameters)
    model.train()
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
    assert max(float(gradient.abs().max()) for gradient in expected) > 1e-4


@pytest.mark.parametrize("cls", [PPO, A2C, TRPO])
@pytest.mark.parametrize("flat", [False, True])
def test_a_loaded_model_continues_the_same_training(
    cls: Any, flat: bool, make_grouped: Any, run_folder: Path, tmp_path: Path
) -> None:
    model = make_model(cls, make_grouped(flat), run_folder, flat)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(96)
    moved = [n for n, value in model.policy.state_dict().items() if not torch.equal(value, before[n])]
    assert any(name.startswith("actor") for name in moved)
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=make_grouped(flat), device="cpu")
    assert type(loaded.rollout_buffer) is type(model.rollout_buffer)
    assert loaded.rollout_buffer.group_size == 4
    model.set_env(make_grouped(flat))
    results = []
    for each in (model, loaded):
        each.set_random_seed(3)
        each.learn(48, reset_num_timesteps=False)
        results.append(each.policy.state_dict())
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name


def test_ungrouped_environments_are_refused_before_the_first_step(
    make_grouped: Any, run_folder: Path
) -> None:
    model = make_model(PPO, make_grouped(group_size=1), run_folder)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    with pytest.raises(ValueError, match=r"GroupedUsers\(envs, group_size=4\)"):
        model.learn(48)
    assert all(torch.equal(value, before[name]) for name, value in model.policy.state_dict().items())


@pytest.mark.parametrize("group_size", [2, 8])
def test_wrong_group_sizes_are_detected_where_users_differ(
    group_size: int, make_grouped: Any, run_folder: Path
) -> None:
    """Groups of 4 hold groups of 2 of one user; those of 8 hold two users."""
    model = make_model(PPO, make_grouped(), run_folder, rollout_buffer_kwargs={"group_size": group_size})
    if group_size == 2:
        model.learn(48)
    else:
        with pytest.raises(ValueError, match=r"sub-environments 0\.\.7 do not begin the same chain"):
            model.learn(48)


def test_noisy_starts(make_grouped: Any, run_folder: Path) -> None:
    kwargs = {"group_size": 4}
    with pytest.raises(ValueError, match="'shared_start': False"):
        make_model(PPO, make_grouped(start="diffused"), run_folder, rollout_buffer_kwargs=kwargs).learn(48)
    model = make_model(
        PPO,
        make_grouped(start="diffused"),
        run_folder,
        rollout_buffer_kwargs=kwargs | {"shared_start": False},
    )
    collect(model)
    sums = model.rollout_buffer.advantages.reshape(6, 2, 4).sum(2)
    np.testing.assert_allclose(sums, 0.0, atol=1e-5)
    assert np.abs(model.rollout_buffer.advantages).max() > 0
