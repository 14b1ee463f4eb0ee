"""Episodes of next check-ins: scores by the context, its spaces, the batch, other backbones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

from refit_env.data import Dataset, RowDataset, synthesize_checkins
from refit_env.envs.problem import ProblemConfig, make_problem
from refit_env.policy import DiffusionPolicy


@pytest.fixture(scope="module")
def checkins() -> Dataset:
    return synthesize_checkins(num_users=20, num_items=60)


@pytest.fixture
def kwargs(checkins: Dataset, checkpoints: Callable[[str, Dataset], str]) -> dict[str, Any]:
    made = checkpoints("diff-poi", checkins)
    return {"data": checkins, "backbone": "diff-poi", "checkpoint": made, "num_steps": 3, "reward": "ndcg"}


def test_an_episode_starts_at_the_spatial_encoding_and_rewards_the_next_place(
    kwargs: dict[str, Any],
) -> None:
    env = gym.make("ReFiT-Custom-v0", **kwargs)
    rows = env.unwrapped.problem.dataset  # type: ignore[attr-defined]
    assert isinstance(rows, RowDataset)
    observation, _ = env.reset(seed=0, options={"user": 4})
    model = DiffusionPolicy.load(kwargs["checkpoint"]).backbone.eval()
    users = torch.tensor([4])
    shown = model.shown(rows, "cpu")(users)
    with torch.no_grad():
        state, start = model.context(users, shown), model.initial_state(users, shown)
        assert state is not None
        assert np.allclose(observation["history"], state[0].numpy(), atol=1e-4)
        assert np.allclose(observation["u"], start[0].numpy(), atol=1e-4)
        for _ in range(3):
            observation, reward, ended, _, info = env.step(np.float32(0.5) * env.action_space.sample())
        assert ended
        order = model.scores(torch.from_numpy(observation["u"])[None], users, state)[0].argsort(
            descending=True
        )
    assert info["top_k"].tolist() == order[:20].tolist()
    rank = order.tolist().index(int(rows.targets.of(4)[0]))
    assert reward == pytest.approx(1 / np.log2(rank + 2) if rank < 20 else 0.0)


def test_the_checker_is_satisfied(kwargs: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="symmetric and normalized"):
        check_env(gym.make("ReFiT-Custom-v0", disable_env_checker=True, **kwargs).unwrapped)


def test_every_row_is_within_the_spaces(kwargs: dict[str, Any]) -> None:
    problem = make_problem(ProblemConfig(**kwargs))
    users = torch.from_numpy(problem.users)
    assert problem.initial_state(users).abs().max() <= problem.bound
    box, context = problem.context_box(), problem.context(users)
    assert box is not None and context is not None and context.shape[1] == box[2]
    assert box[0] <= float(context.min()) and float(context.max()) <= box[1]


def test_the_batch_equals_single_environments(kwargs: dict[str, Any]) -> None:
    ours = gym.make_vec("ReFiT-Custom-v0", num_envs=3, **kwargs)
    theirs = SyncVectorEnv([lambda: gym.make("ReFiT-Custom-v0", **kwargs)] * 3)
    (a, info_a), (b, info_b) = ours.reset(seed=5), theirs.reset(seed=5)
    assert np.array_equal(info_a["user"], info_b["user"])
    rng = np.random.default_rng(0)
    for _ in range(3):
        assert all(np.allclose(a[key], b[key], atol=1e-5) for key in a)
        action = rng.standard_normal((3, 64)).astype(np.float32)
        a, paid, ended, *_ = ours.step(action)
        b, other, *_ = theirs.step(action)
    assert ended.all() and np.array_equal(paid, other)


def test_environment_and_evaluation_score_alike(kwargs: dict[str, Any]) -> None:
    problem = make_problem(ProblemConfig(**kwargs))
    policy = DiffusionPolicy.load(kwargs["checkpoint"]).eval()
    policy = DiffusionPolicy(policy.backbone, 3).eval()
    users = torch.arange(5)
    with torch.no_grad():
        chain = policy.denoise(problem.initial_state(users), problem.context(users))
    scores = policy.scorer(problem.dataset)(users)
    assert torch.allclose(problem.scores(chain, users), scores, atol=1e-3)


def test_other_backbones_work_with_rows(
    checkins: Dataset, checkpoints: Callable[[str, Dataset], str]
) -> None:
    made = checkpoints("dreamrec", checkins)
    env = gym.make("ReFiT-Custom-v0", data=checkins, backbone="dreamrec", checkpoint=made, num_steps=2)
    assert env.reset(seed=0)[0]["history"].shape == (10,)
    rows = gym.make("ReFiT-Custom-v0", data=checkins, backbone="diffrec", num_steps=2)
    observation, info = rows.reset(seed=0)
    assert np.flatnonzero(observation["u"]).tolist() == sorted(
        set(checkins.episodes.train.of(info["user"]).tolist())
    )
