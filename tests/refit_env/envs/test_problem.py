"""The problem under both environments: starts, users, sharing."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from refit_env.data import synthesize
from refit_env.data.rows import SparseRows
from refit_env.envs import problem as module
from refit_env.envs.config import ProblemConfig
from refit_env.envs.problem import make_problem


def test_histories_are_written_to_where_they_are_wanted() -> None:
    problem = make_problem(ProblemConfig("synthetic"))
    users = torch.tensor([5, 0, 5, 499])
    out = torch.full((4, problem.dim), 7.0)
    assert problem.initial_state(users, out=out) is out
    assert torch.equal(out, SparseRows(problem.relevance.visible).dense(users))
    assert torch.equal(problem.initial_state(users), out)


def test_noisy_starts_stay_within_the_bound() -> None:
    problem = make_problem(ProblemConfig("synthetic", start="diffused", bound=2.0))
    noise = torch.full((1, problem.dim), 1e6)
    assert problem.initial_state(torch.tensor([3]), noise).max() == 2.0
    assert problem.initial_state(torch.tensor([3]), -noise).min() == -2.0


def test_a_noisy_start_without_noise_is_the_mean_one() -> None:
    problem = make_problem(ProblemConfig("synthetic", start="diffused"))
    users, draws = torch.tensor([3]).repeat(4000), torch.Generator().manual_seed(0)
    noise = torch.randn(4000, problem.dim, generator=draws)
    mean = problem.initial_state(users[:1])[0]
    assert torch.allclose(problem.initial_state(users, noise).mean(0), mean, atol=5 * float(noise.std()) / 60)


def test_the_score_is_the_rewards() -> None:
    problem = make_problem(ProblemConfig("synthetic", reward={"racs": 1.0, "ndcg": 2.0}))
    scores, users = torch.rand(6, problem.dim), torch.arange(6)
    reward, terms, lists = problem.score(scores, users)
    assert torch.equal(reward, problem.reward_fn(scores, users))
    assert tuple(terms) == tuple(problem.term_names)
    assert torch.equal(lists, problem.reward_fn.top_k(scores, users))


def test_equal_arguments_share_a_problem_and_others_do_not() -> None:
    config = {"data": "synthetic", "reward": {"racs": 1.0}, "reward_kwargs": {"alpha": 0.3}}
    one = make_problem(ProblemConfig(**config))
    assert make_problem(ProblemConfig(**copy.deepcopy(config))) is one
    assert make_problem(ProblemConfig(**(config | {"reward_kwargs": {"alpha": 0.4}}))) is not one
    assert make_problem(ProblemConfig(**(config | {"k": 10}))) is not one
    assert pickle.loads(pickle.dumps(one)) is one and copy.deepcopy(one) is one


def test_few_problems_are_remembered() -> None:
    data = [synthesize(seed=seed, num_users=20, num_items=40) for seed in range(module.SHARED + 1)]
    problems = [make_problem(ProblemConfig(one)) for one in data]
    assert len(module._PROBLEMS) == module.SHARED
    assert make_problem(ProblemConfig(data[-1])) is problems[-1]
    assert make_problem(ProblemConfig(data[0])) is not problems[0]


def test_arguments_without_a_hash_are_taken() -> None:
    class Unhashable:
        __hash__: Any = None

        def __call__(self, scores: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
            return scores[:, 0]

    problem = make_problem(ProblemConfig("synthetic", reward=Unhashable()))
    assert problem.score(torch.ones(1, problem.dim), torch.tensor([0]))[0].tolist() == [1.0]


def test_users_are_drawn_by_one_uniform_number_each() -> None:
    problem = make_problem(ProblemConfig("synthetic"))
    generators = [np.random.default_rng(seed) for seed in range(5)]
    expected = [int(np.random.default_rng(seed).random() * len(problem.users)) for seed in range(5)]
    assert problem.draw_users(generators).tolist() == problem.users[expected].tolist()


@pytest.mark.parametrize("users", [[-1], [0, 10**7]])
def test_wrong_users_in_a_batch_are_named(users: list[int]) -> None:
    with pytest.raises(ValueError, match=f"user {users[-1]} must be"):
        make_problem(ProblemConfig("synthetic")).check_users(torch.tensor(users))
