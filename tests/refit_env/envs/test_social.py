"""Environments of RecDiff: chains start at the friends' encoding, and hidden items change the scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

from refit_env.data import Dataset, load_dataset, save_dataset, synthesize_social
from refit_env.envs.config import ProblemConfig
from refit_env.envs.problem import make_problem
from refit_env.policy import DiffusionPolicy


@pytest.fixture(scope="module")
def social() -> Dataset:
    return synthesize_social(num_users=60, num_items=50, meets=10)


@pytest.fixture
def kwargs(social: Dataset, checkpoints: Callable[[str, Dataset], str]) -> dict[str, Any]:
    made = checkpoints("recdiff", social)
    return {"data": social, "backbone": "recdiff", "checkpoint": made, "num_steps": 3, "k": 10}


def test_an_episode_is_scored_by_both_sides(kwargs: dict[str, Any], social: Dataset) -> None:
    env = gym.make("ReFiT-Custom-v0", reward="r_ra", relevance="train", **kwargs)
    observation, info = env.reset(seed=0, options={"user": 4})
    assert env.observation_space.contains(observation)
    backbone = DiffusionPolicy.load(kwargs["checkpoint"]).backbone.double()
    shown = backbone.shown(social, "cpu")(torch.tensor([4]))
    context = backbone.context(torch.tensor([4]), shown)
    assert context is not None
    assert np.allclose(observation["history"], context[0].numpy(), atol=1e-6)
    assert np.allclose(observation["u"], backbone.initial_state(torch.tensor([4]), shown)[0], atol=1e-6)
    for _ in range(3):
        action = env.action_space.sample()
        _, reward, _, _, info = env.step(action)
    scores = backbone.scores(torch.from_numpy(action)[None].double(), torch.tensor([4]), context)
    assert info["top_k"].tolist() == scores[0].topk(10).indices.tolist()
    hits = np.isin(info["top_k"], social.train.of(4)).sum()
    assert reward == pytest.approx(hits / 10)


def test_hiding_more_moves_the_context_further(kwargs: dict[str, Any]) -> None:
    users = torch.arange(60)
    whole = make_problem(ProblemConfig(**kwargs, relevance="train")).context(users)
    gaps = []
    for fraction in (0.2, 0.8):
        problem = make_problem(
            ProblemConfig(**kwargs, relevance="holdout", relevance_kwargs={"fraction": fraction})
        )
        context = problem.context(users)
        assert whole is not None and context is not None
        assert torch.equal(
            problem.initial_state(users), make_problem(ProblemConfig(**kwargs)).initial_state(users)
        )
        gaps.append(float((context - whole).norm(dim=1).mean()))
    assert 0 < gaps[0] < gaps[1]


def test_the_checker_is_satisfied(kwargs: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="symmetric and normalized"):
        check_env(gym.make("ReFiT-Custom-v0", disable_env_checker=True, **kwargs).unwrapped)


def test_the_batch_equals_single_environments(kwargs: dict[str, Any]) -> None:
    ours = gym.make_vec("ReFiT-Custom-v0", num_envs=4, reward="ndcg", **kwargs)
    theirs = SyncVectorEnv(
        [lambda: gym.make("ReFiT-Custom-v0", reward="ndcg", **kwargs)] * 4,
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    (a, _), (b, _) = ours.reset(seed=5), theirs.reset(seed=5)
    rng = np.random.default_rng(0)
    for _ in range(7):
        assert all(a[key].tobytes() == b[key].tobytes() for key in ("history", "t", "u"))
        action = rng.standard_normal((4, 64)).astype(np.float32)
        a, paid_a, *_ = ours.step(action)
        b, paid_b, *_ = theirs.step(action)
        assert np.array_equal(paid_a, paid_b)


def test_a_policy_is_evaluated_as_the_environment_scores(kwargs: dict[str, Any], social: Dataset) -> None:
    problem = make_problem(ProblemConfig(**kwargs, relevance="train"))
    policy, users = DiffusionPolicy.load(kwargs["checkpoint"]).eval(), torch.arange(60)
    policy = DiffusionPolicy(policy.backbone, 3)
    chain = policy.denoise(problem.initial_state(users), problem.context(users))
    assert torch.allclose(problem.scores(chain, users), policy.scorer(social)(users), atol=1e-4)
    table = problem.score_table
    assert table is not None  # affine in u_0
    other = problem.scores(chain + 0.5, users) - problem.scores(chain, users)
    assert torch.allclose(other, (0.5 * table.sum(1)).expand(60, -1), atol=1e-4)


def test_a_closed_form_reads_the_items_of_friends(social: Dataset) -> None:
    """The environment shows them as a context; without their weights it needs no checkpoint."""
    options: dict[str, Any] = {"data": social, "backbone": "linear", "backbone_options": {"friends": 0.5}}
    with pytest.warns(UserWarning, match="symmetric and normalized"):
        check_env(gym.make("ReFiT-Custom-v0", disable_env_checker=True, **options).unwrapped)
    env = gym.make("ReFiT-Custom-v0", reward="ndcg", relevance="holdout", **options)
    observation, _ = env.reset(seed=0, options={"user": 4})
    assert env.observation_space.contains(observation)
    problem = make_problem(ProblemConfig(**options, relevance="train"))
    assert isinstance(social.social, np.ndarray)
    friends = social.social[social.social[:, 0] == 4, 1]
    visits = social.train.csr[np.unique(friends)].toarray().sum(0)
    context = problem.context(torch.tensor([4]))
    assert context is not None
    np.testing.assert_allclose(context[0], visits / np.linalg.norm(visits), atol=1e-6)
    assert np.array_equal(problem.initial_state(torch.tensor([4]))[0], social.train.csr[4].toarray()[0])


def test_ties_survive_the_canonical_form(
    social: Dataset, tmp_path: Path, checkpoints: Callable[[str, Dataset], str]
) -> None:
    save_dataset(social, tmp_path / "mine")
    again = load_dataset(tmp_path / "mine")
    made = checkpoints("recdiff", social)
    env = gym.make(
        "ReFiT-Custom-v0", data=str(tmp_path / "mine"), backbone="recdiff", checkpoint=made, num_steps=3, k=10
    )
    env.reset(seed=0)
    users = torch.arange(60)
    policy = DiffusionPolicy.load(made)
    assert torch.equal(policy.scorer(again)(users), policy.scorer(social)(users))


@pytest.mark.parametrize("env_id", ["ReFiT-Ciao-v0", "ReFiT-Epinions-v0", "ReFiT-Yelp-v0"])
def test_social_ids_work_with_diffrec(env_id: str, data_home: Path) -> None:
    env = gym.make(env_id, backbone="diffrec")
    observation, _ = env.reset(seed=0)
    assert set(observation) == {"t", "u"} and observation["u"].sum() >= 1
    with pytest.raises(ValueError, match=f"refit pretrain --env {env_id}"):
        gym.make(env_id)
