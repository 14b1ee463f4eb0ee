"""Environments of embedding backbones: scored by a checkpoint, conditioned on a history."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from refit_env.data import Dataset, RowDataset, synthesize, synthesize_sessions
from refit_env.envs.config import ProblemConfig
from refit_env.envs.problem import DenoisingProblem, make_problem
from refit_env.errors import CheckpointError
from refit_env.policy import DiffusionPolicy


@pytest.fixture(scope="module")
def sessions() -> Dataset:
    return synthesize_sessions(num_sessions=80, num_items=60)


@pytest.fixture
def kwargs(sessions: Dataset, checkpoints: Callable[[str, Dataset], str]) -> dict[str, Any]:
    made = checkpoints("dreamrec", sessions)
    return {"data": sessions, "backbone": "dreamrec", "checkpoint": made, "num_steps": 3, "k": 20}


def test_an_episode_shows_the_history_and_is_scored_by_the_checkpoint(kwargs: dict[str, Any]) -> None:
    env = gym.make("ReFiT-Custom-v0", reward="ndcg", **kwargs)
    rows = env.unwrapped.problem.dataset  # type: ignore[attr-defined]
    assert isinstance(rows, RowDataset)
    observation, info = env.reset(seed=0, options={"user": 4})
    assert observation["history"].tolist() == rows.history[4].tolist() and info == {"user": 4}
    table = DiffusionPolicy.load(kwargs["checkpoint"]).backbone.items.weight.detach()[:-1]  # type: ignore[union-attr,index]
    for _ in range(3):
        action = np.float32(env.action_space.sample())
        observation, reward, _, _, info = env.step(action)
        assert observation["history"].tolist() == rows.history[4].tolist()
    order = (torch.from_numpy(action).double() @ table.double().T).argsort(descending=True)
    assert info["top_k"].tolist() == order[:20].tolist()
    target = int(rows.targets.of(4)[0])
    rank = order.tolist().index(target)
    assert reward == pytest.approx(1 / np.log2(rank + 2) if rank < 20 else 0.0)


def test_the_checker_is_satisfied(kwargs: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="symmetric and normalized"):
        check_env(gym.make("ReFiT-Custom-v0", disable_env_checker=True, **kwargs).unwrapped)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_the_batch_equals_single_environments(kwargs: dict[str, Any], mode: AutoresetMode) -> None:
    ours = gym.make_vec("ReFiT-Custom-v0", num_envs=4, autoreset_mode=mode, reward="log_rank", **kwargs)
    theirs = SyncVectorEnv(
        [lambda: gym.make("ReFiT-Custom-v0", reward="log_rank", **kwargs)] * 4, autoreset_mode=mode
    )
    (a, info_a), (b, info_b) = ours.reset(seed=5), theirs.reset(seed=5)
    rng = np.random.default_rng(0)
    mask = np.array([True, False, True, False])
    for step in range(1, 10):
        assert list(a) == list(b) == ["history", "t", "u"]
        assert all(a[key].tobytes() == b[key].tobytes() and a[key].dtype == b[key].dtype for key in a)
        assert np.array_equal(info_a.get("user", 0), info_b.get("user", 0))
        kept = {key: value.copy() for key, value in a.items()}
        action = rng.standard_normal((4, 64)).astype(np.float32)
        new, paid_a, ended, _, info_a = ours.step(action)
        b, paid_b, also, _, info_b = theirs.step(action)
        assert np.array_equal(paid_a, paid_b) and np.array_equal(ended, also)
        assert all(np.array_equal(a[key], kept[key]) for key in a)  # a returned array does not change
        a = new
        if mode == AutoresetMode.SAME_STEP and ended.any():
            for mine, other in zip(info_a["final_obs"], info_b["final_obs"], strict=True):
                assert list(mine) == list(other) and all(np.array_equal(mine[k], other[k]) for k in mine)
        if mode == AutoresetMode.DISABLED and step == 3:  # two go on to other rows, two wait
            (a, info_a), (b, info_b) = (e.reset(options={"reset_mask": mask}) for e in (ours, theirs))
            assert np.array_equal(a["history"][~mask], kept["history"][~mask])
            break


def test_tensors_on_a_device_are_the_arrays(kwargs: dict[str, Any]) -> None:
    arrays = gym.make_vec("ReFiT-Custom-v0", num_envs=3, **kwargs)
    tensors = gym.make_vec("ReFiT-Custom-v0", num_envs=3, backend="torch", **kwargs)
    (a, _), (b, _) = arrays.reset(seed=1), tensors.reset(seed=1)
    for _ in range(3):
        assert all(np.array_equal(a[key], b[key].numpy()) for key in a)
        action = np.random.default_rng(2).standard_normal((3, 64)).astype(np.float32)
        a, paid, *_, info = arrays.step(action)
        b, other, *_, also = tensors.step(torch.from_numpy(action))
        assert np.array_equal(paid.astype(np.float32), other.numpy())
    assert np.array_equal(info["final_obs"][1]["history"], also["final_obs"]["history"][1].numpy())


def test_chains_start_from_noise_and_a_policy_is_evaluated_from_its_mean(kwargs: dict[str, Any]) -> None:
    problem = make_problem(ProblemConfig(**kwargs))
    users = torch.arange(3)
    noise = torch.randn(3, 64)
    assert problem.needs_noise and torch.equal(problem.initial_state(users, noise), noise)
    assert not problem.initial_state(users).any()
    assert problem.initial_state(users, noise * 100).abs().max() == pytest.approx(problem.bound)
    policy = DiffusionPolicy.load(kwargs["checkpoint"]).eval()
    chain = policy.denoise(problem.initial_state(users), problem.context(users))
    scores = policy.scorer(problem.dataset)(users)
    assert torch.allclose(problem.scores(chain, users), scores, atol=1e-4)


def test_bounds_follow_the_embeddings(kwargs: dict[str, Any]) -> None:
    problem = make_problem(ProblemConfig(**kwargs))
    largest = DiffusionPolicy.load(kwargs["checkpoint"]).backbone.largest()
    assert problem.bound == pytest.approx(largest + 5) and largest > 2
    assert make_problem(ProblemConfig(**kwargs, bound=9.0)).bound == 9.0


def test_without_a_checkpoint_the_error_names_the_command(sessions: Dataset, data_home: Path) -> None:
    with pytest.raises(ValueError, match="refit pretrain --env ReFiT-YooChoose-v0 --out runs/pretrained"):
        gym.make("ReFiT-YooChoose-v0")
    with pytest.raises(ValueError, match="refit pretrain --data FOLDER --backbone dreamrec"):
        gym.make("ReFiT-Custom-v0", data=sessions, backbone="dreamrec")


def test_wrong_checkpoints_and_data_are_refused(
    kwargs: dict[str, Any], tmp_path: Path, checkpoints: Callable[[str, Dataset], str]
) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        gym.make("ReFiT-Custom-v0", **(kwargs | {"checkpoint": str(tmp_path / "nowhere")}))
    other = synthesize_sessions(num_sessions=40, num_items=24)
    with pytest.raises(ValueError, match="holds a 'dreamrec' of 24 items"):
        gym.make("ReFiT-Custom-v0", **(kwargs | {"checkpoint": checkpoints("dreamrec", other)}))
    cf = synthesize(num_users=30, num_items=60)
    with pytest.raises(ValueError, match="holds a 'diffrec' of 60 items"):
        gym.make("ReFiT-Custom-v0", **(kwargs | {"checkpoint": checkpoints("diffrec", cf)}))
    with pytest.raises(ValueError, match="is for sequential, poi data"):
        gym.make("ReFiT-Custom-v0", **(kwargs | {"data": cf}))
    with pytest.raises(ValueError, match=r"'diffrec' needs none.*backbone=NAME"):
        gym.make("ReFiT-Custom-v0", data=cf, checkpoint=kwargs["checkpoint"])
    with pytest.raises(ValueError, match="is sequential"):
        gym.make("ReFiT-Custom-v0", data=other)
    with pytest.raises(ValueError, match="num_steps=501"):
        gym.make("ReFiT-Custom-v0", **(kwargs | {"num_steps": 501}))


def test_a_rewritten_checkpoint_is_read_again(kwargs: dict[str, Any], tmp_path: Path) -> None:
    policy = DiffusionPolicy.load(kwargs["checkpoint"])
    policy.save(tmp_path)
    config = ProblemConfig(**(kwargs | {"checkpoint": str(tmp_path)}))
    first = make_problem(config)
    assert make_problem(config) is first
    file = tmp_path / "policy.safetensors"
    stamp = file.stat().st_mtime_ns
    with torch.no_grad():
        policy.backbone.items.weight.mul_(2.0)  # type: ignore[union-attr,operator]
    policy.save(tmp_path, overwrite=True)
    os.utime(file, ns=(stamp + 10**9, stamp + 10**9))
    assert make_problem(config) is not first
    u0 = torch.ones(1, 64)
    assert torch.allclose(
        make_problem(config).scores(u0, torch.tensor([0])), 2 * first.scores(u0, torch.tensor([0]))
    )


def test_problems_pickle_as_their_configuration(kwargs: dict[str, Any]) -> None:
    problem = make_problem(ProblemConfig(**kwargs))
    twin = pickle.loads(pickle.dumps(problem))
    assert isinstance(twin, DenoisingProblem) and twin.bound == problem.bound


def test_pictures_show_item_scores(kwargs: dict[str, Any]) -> None:
    env = gym.make("ReFiT-Custom-v0", render_mode="rgb_array", **kwargs)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert env.render().shape == (450, 800, 3)  # type: ignore[union-attr]


def test_shared_weights_cannot_be_replaced(kwargs: dict[str, Any]) -> None:
    """Only those of ``with_own_scores``; a copy of such a problem has its own again."""
    policy = DiffusionPolicy.load(kwargs["checkpoint"])
    with torch.no_grad():
        policy.backbone.items.weight.mul_(2.0)  # type: ignore[union-attr,operator]
    shared, u0, users = make_problem(ProblemConfig(**kwargs)), torch.ones(1, 64), torch.tensor([0])
    before = shared.scores(u0, users)
    with pytest.raises(ValueError, match="other environments share these weights"):
        shared.score_by(policy.backbone)
    own = shared.with_own_scores()
    own.score_by(policy.backbone)
    copied = copy.deepcopy(own)
    copied.score_by(DiffusionPolicy.load(kwargs["checkpoint"]).backbone)
    assert torch.allclose(own.scores(u0, users), 2 * before) and torch.equal(copied.scores(u0, users), before)
    assert torch.equal(shared.scores(u0, users), before)
    with pytest.raises(ValueError, match="backbone 'diffrec' has no weights that score u_0"):
        make_problem(ProblemConfig("synthetic")).with_own_scores()
