"""The problem under both environments: starts, users, sharing."""

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
from torch import Tensor

import refit_env  # noqa: F401  # registers the ids
from refit_env.backbones import make_backbone
from refit_env.data import synthesize, synthesize_sessions
from refit_env.data.rows import SparseRows
from refit_env.envs import problem as module
from refit_env.envs.config import ProblemConfig
from refit_env.envs.problem import DenoisingProblem, make_problem
from refit_env.policy import DiffusionPolicy
from refit_env.rewards import base as rewards_base
from refit_env.rewards import context as rewards_context


def test_histories_are_written_to_out() -> None:
    problem = make_problem(ProblemConfig("synthetic"))
    users = torch.tensor([5, 0, 5, 499])
    out = torch.full((4, problem.dim), 7.0)
    assert problem.initial_state(users, out=out) is out
    assert torch.equal(out, SparseRows(problem.relevance.visible).dense(users))
    assert torch.equal(problem.initial_state(users), out)


@pytest.mark.parametrize("name", ["linear", "stacked"])
def test_a_policy_of_other_settings_of_what_is_shown_is_refused(name: str) -> None:
    data = synthesize_sessions(seed=5, num_sessions=60, num_items=24)
    weighted = {"recency": "reciprocal", "decay": 1.5}
    backbone = make_backbone(name, 24, weighted)
    problem = make_problem(ProblemConfig(data, backbone=name, num_steps=1))
    with pytest.raises(ValueError, match=r"make it with backbone_options=policy\.backbone\.config_dict"):
        problem.check_starts(backbone)
    options = backbone.config_dict()
    make_problem(ProblemConfig(data, backbone=name, num_steps=1, backbone_options=options)).check_starts(
        backbone
    )
    problem.check_starts(make_backbone(name, 24, {"l2": 7.0}))  # it changes no start
    if name == "stacked":
        with pytest.raises(ValueError, match="shows users by other settings of 'stacked'"):
            problem.check_starts(make_backbone(name, 24, {"held": 0.1}))


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
    assert torch.equal(reward, problem.reward_fn(scores, users).value)
    assert tuple(terms) == tuple(problem.term_names)
    assert torch.equal(lists, problem.reward_fn.top_k(scores, users))


def test_equal_arguments_share_a_problem_and_others_do_not() -> None:
    config = {"data": "synthetic", "reward": {"racs": 1.0}, "reward_kwargs": {"alpha": 0.3}}
    one = make_problem(ProblemConfig(**config))
    assert make_problem(ProblemConfig(**copy.deepcopy(config))) is one
    assert make_problem(ProblemConfig(**(config | {"reward_kwargs": {"alpha": 0.4}}))) is not one
    assert make_problem(ProblemConfig(**(config | {"k": 10}))) is not one
    assert pickle.loads(pickle.dumps(one)) is one and copy.deepcopy(one) is one


LISTS: list[tuple[Any, dict[str, Any]]] = [
    ("coverage", {}),
    ("racs", {"variant": "neighbor_lists"}),
    ({"ndcg": 1.0, "racs": 1.0, "coverage": 0.5}, {"variant": "neighbor_lists"}),
]


@pytest.mark.parametrize(("reward", "kwargs"), LISTS)
@pytest.mark.parametrize("vector", [False, True])
def test_lists_of_one_environment_change_no_other(reward: Any, kwargs: dict[str, Any], vector: bool) -> None:
    """Neither earlier nor later ones: the rewards of a new environment depend on its arguments only."""

    def make() -> Any:
        made: Any = gym.make_vec if vector else gym.make
        return made("ReFiT-Synthetic-v0", reward=reward, reward_kwargs=kwargs)

    def paid(env: Any) -> list[float]:
        scores = torch.rand(8, 400, generator=torch.Generator().manual_seed(0))
        rewards: list[float] = env.unwrapped.problem.score(scores, users)[0].tolist()
        return rewards

    before, given = make(), make()
    users = torch.from_numpy(before.unwrapped.problem.users[:8])
    table = torch.rand(before.unwrapped.problem.dataset.num_users, 400, generator=torch.Generator())
    first = paid(before)
    own = given.unwrapped.problem
    own.reward_fn.refresh(lambda some: table[some])
    changed = paid(given)
    assert changed != first
    assert paid(before) == first and paid(make()) == first
    copied = copy.deepcopy(given)
    assert paid(copied) == changed  # a copy has the same lists, but
    copied.unwrapped.problem.reward_fn.refresh(lambda some: -table[some])
    assert paid(copied) != changed and paid(given) == changed
    again = pickle.loads(pickle.dumps(own))
    again.reward_fn.refresh(lambda some: table[some])
    assert paid(make()) == first
    shared = before.unwrapped.problem
    assert own.reward_fn.context is shared.reward_fn.context and own.seen is shared.seen  # what is costly is


def test_a_call_of_a_reward_changes_no_state() -> None:
    problem = make_problem(ProblemConfig("synthetic", reward={"racs": 1.0, "coverage": 1.0, "ndcg": 1.0}))
    problem.score(torch.rand(3, problem.dim), torch.arange(3))  # computes what later calls reuse
    rewards = [problem.reward_fn, *(part for part, _ in problem.reward_fn.parts())]
    before = [dict(vars(reward)) for reward in rewards]
    problem.score(torch.rand(5, problem.dim), torch.arange(5))
    for reward, state in zip(rewards, before, strict=True):
        assert vars(reward).keys() == state.keys()
        assert all(vars(reward)[name] is value for name, value in state.items())


@pytest.mark.parametrize("vector", [False, True])
def test_a_step_checks_for_nan_once(monkeypatch: pytest.MonkeyPatch, vector: bool) -> None:
    """The action is checked; the reward does not check the same vector again."""
    make: Any = gym.make_vec if vector else gym.make
    env = make("ReFiT-Synthetic-v0", num_steps=1, reward={"racs": 1.0, "ndcg": 1.0})
    observation, _ = env.reset(seed=0)

    def checked(scores: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the scores are checked again")

    for place in (rewards_base, rewards_context):
        monkeypatch.setattr(place, "rankable", checked)
    env.step(observation["u"])
    with pytest.raises(AssertionError, match="checked again"):
        env.unwrapped.problem.score(torch.ones(1, 400), torch.tensor([0]))
    env.reset()
    with pytest.raises(ValueError, match=r"is nan; every number of an action must be finite"):
        env.step(np.full_like(observation["u"], np.nan))


def test_arguments_that_differ_share_nothing() -> None:
    def made(**changes: Any) -> DenoisingProblem:
        return make_problem(
            ProblemConfig("synthetic", **({"reward": {"ndcg": 1.0, "recall": 1.0}} | changes))
        )

    assert made() is made()
    assert made(reward={"recall": 1.0, "ndcg": 1.0}).term_names == (
        "recall",
        "ndcg",
    )  # in the order of the argument
    assert made().term_names == ("ndcg", "recall")
    made(k=20)
    with pytest.raises(ValueError, match=r"k must be a whole number >= 1, found 20\.0"):
        made(k=20.0)


def test_mixes_with_a_function_share_a_problem_by_the_function_itself() -> None:
    def paying(amount: float) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda scores, users: torch.full(users.shape, amount)

    def made(function: Callable[[Tensor, Tensor], Tensor]) -> DenoisingProblem:
        return make_problem(ProblemConfig("synthetic", reward={"ndcg": 0.0, function: 1.0}))

    one = paying(1.0)
    assert made(one) is made(one)
    for amount in (2.0, 3.0, 4.0):  # each may have the address of the one before
        paid = made(paying(amount)).score(torch.rand(1, 400), torch.tensor([0]))[0]
        assert paid.tolist() == [amount]


def test_a_rewritten_checkpoint_is_read_again(tmp_path: Path) -> None:
    """Also one in the reward's settings, and a new file with the old one's date and size."""

    def write(seed: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            policy = DiffusionPolicy(make_backbone("diffrec", 400, {"hidden": (8,), "num_steps": 4}))
        policy.save(tmp_path, overwrite=True)

    def paid() -> list[float]:
        kwargs = {"checkpoint": str(tmp_path)}
        problem = make_problem(ProblemConfig("synthetic", reward="recommender", reward_kwargs=kwargs))
        assert make_problem(ProblemConfig("synthetic", reward="recommender", reward_kwargs=kwargs)) is problem
        scores = torch.rand(4, 400, generator=torch.Generator().manual_seed(0))
        rewards: list[float] = problem.score(scores, torch.arange(4))[0].tolist()
        return rewards

    file = tmp_path / "policy.safetensors"
    write(0)
    written, first = file.stat(), paid()
    write(1)
    os.utime(file, ns=(written.st_atime_ns, written.st_mtime_ns))
    assert (file.stat().st_mtime_ns, file.stat().st_size) == (written.st_mtime_ns, written.st_size)
    assert paid() != first
    write(0)
    assert paid() == first


def test_few_problems_are_remembered() -> None:
    data = [synthesize(seed=seed, num_users=20, num_items=40) for seed in range(module.SHARED + 1)]
    problems = [make_problem(ProblemConfig(one)) for one in data]
    assert len(module._PROBLEMS) == module.SHARED
    assert make_problem(ProblemConfig(data[-1])) is problems[-1]
    assert make_problem(ProblemConfig(data[0])) is not problems[0]


def test_arguments_without_a_hash_are_accepted() -> None:
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
