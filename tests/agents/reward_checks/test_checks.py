"""Measurements of a reward before training: what is wrong is found, what is known is recovered."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.reward_checks.episodes import SCALES, Episodes, make_env, run_episodes
from agents.reward_checks.properties import check_properties, spread
from agents.reward_checks.relations import correlation, distance, distances, with_held_out
from agents.reward_checks.report import check_reward
from refit_env.backbones import backbone_for
from refit_env.data import RowDataset, synthesize_checkins
from refit_env.policy import DiffusionPolicy
from refit_env.pretrained import load_policy

CALLS = 0


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return load_policy("ReFiT-Synthetic-v0", num_steps=1)


@pytest.fixture
def make(policy: DiffusionPolicy) -> Callable[..., Episodes]:
    def episodes(reward: Any, users: int = 24, **kwargs: Any) -> Episodes:
        env_kwargs = {"reward": reward, "k": 10, **kwargs}
        env = make_env("ReFiT-Synthetic-v0", policy, users * 3, env_kwargs, torch.device("cpu"))
        chosen = torch.as_tensor(env.problem.users[:users])
        return run_episodes(env, policy, chosen, 0.05, SCALES, seed=0)

    return episodes


def noisy(scores: Tensor, users: Tensor) -> Tensor:
    global CALLS
    CALLS += 1
    return scores.mean(1) + CALLS


def of_batch(scores: Tensor, users: Tensor) -> Tensor:
    return scores.amax(1) - scores.amax()


def greedy(scores: Tensor, users: Tensor) -> Tensor:
    return scores.sub_(0.5).amax(1)


def forgetful(scores: Tensor, users: Tensor) -> Tensor:
    users.zero_()
    return scores.amax(1)


@pytest.mark.parametrize(
    ("reward", "failed"),
    [
        ("racs", set()),
        ("coverage", set()),
        ("diversity", set()),
        (noisy, {"deterministic", "batch independent"}),
        (of_batch, {"batch independent"}),
        (greedy, {"free of side effects"}),
        (forgetful, {"free of side effects"}),
    ],
)
def test_what_is_not_well_formed_is_found(
    reward: Any, failed: set[str], make: Callable[..., Episodes]
) -> None:
    episodes = make(reward)
    users = episodes.users.clone()
    found = check_properties(episodes.problem.reward_fn, episodes)
    assert torch.equal(episodes.users, users)
    names = [check.name for check in found]
    assert names == ["finite", "free of side effects", "deterministic", "batch independent"]
    assert {check.name for check in found if not check.passed} == failed
    report = check_reward(episodes, "mine", ["ndcg"])
    assert report["passed"] == (not failed)
    assert report["verdict"][0].startswith("Not ready" if failed else "Ready")


def test_episodes_are_grouped_by_user_and_noise_rises(make: Callable[..., Episodes]) -> None:
    episodes = make("ndcg")
    assert episodes.count == 24 and episodes.users.numel() == 24 * 3 * len(SCALES)
    rows = episodes.scores.view(24, 3 * len(SCALES), -1)
    of_scale = [rows[:, episodes.scale[:12] == scale].std(1).mean() for scale in SCALES]
    for scale, found in zip(SCALES, of_scale, strict=True):
        assert float(found) == pytest.approx(0.05 * scale * math.sqrt(2 / math.pi) * 1.1, rel=0.2)


def test_the_correlation_is_within_users() -> None:
    rows = torch.tensor([[0.0, 1.0, 2.0], [50.0, 51.0, 53.0]])
    other = torch.tensor([[9.0, 8.0, 7.0], [1.0, 0.0, -2.0]])  # falls within users, across them it rises
    found = correlation(rows, other)
    assert found is not None and found["value"] == pytest.approx(-1.0)
    assert found["high"] is not None and found["high"] < -0.99
    assert correlation(rows, torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])) is None
    assert distance(0.0) == pytest.approx(math.sqrt(0.5))


def test_the_correlation_of_one_user_or_session_is_not_certain(make: Callable[..., Episodes]) -> None:
    rows = torch.tensor([[0.0, 1.0, 2.0], [5.0, 6.0, 8.0]])
    for found in (correlation(rows[:1], rows[:1]), correlation(rows, rows, independent=1)):
        assert found == {"value": pytest.approx(1.0), "low": None, "high": None}
    report = check_reward(make("ndcg", users=1), "mine", ["ndcg"])
    assert report["held_out"]["low"] is None
    assert any("is not certain: no interval, of one user" in line for line in report["verdict"])
    assert not any("It prefers" in line or "nearest" in line for line in report["verdict"])
    assert "With one of the users no likeness to a known reward is certain." in report["verdict"]


def test_the_distance_ignores_shifts_of_users_and_scale(make: Callable[..., Episodes]) -> None:
    episodes = make("ndcg")
    value = episodes.problem.reward_fn(episodes.scores, episodes.users).value
    shifted = 3 * value + episodes.users.float()
    found = distances(shifted, episodes, ["ndcg", "racs", "novelty"])
    assert next(iter(found)) == "ndcg" and found["ndcg"] == pytest.approx(0.0, abs=1e-3)
    assert found["racs"] is not None and 0.05 < found["racs"] < 0.7
    opposite = distances(-value, episodes, ["ndcg"])["ndcg"]
    assert opposite == pytest.approx(1.0, abs=1e-3)


def test_held_out_ndcg_correlates_with_itself_alone(make: Callable[..., Episodes]) -> None:
    episodes = make("ndcg")
    assert episodes.held_out_ndcg is not None
    itself = with_held_out(episodes.held_out_ndcg[0], episodes)
    assert itself is not None and itself["value"] == pytest.approx(1.0)
    worse = with_held_out(-episodes.held_out_ndcg[0], episodes)
    assert worse is not None and worse["high"] is not None and worse["high"] < -0.99
    reads_them = make("ndcg", relevance="validation")
    assert reads_them.held_out_ndcg is None
    said = check_reward(reads_them, "mine", ["ndcg"])["verdict"]
    assert any("was not measured: it reads them, or no episode has any (those of sessions" in x for x in said)


def test_the_variance_is_that_of_the_exploration(make: Callable[..., Episodes]) -> None:
    episodes = make("ndcg")
    users = episodes.users.double()
    assert spread(users, episodes) == pytest.approx(
        {"mean": 11.5, "std": float(users[episodes.scale == 1].std()), "within_user_std": 0.0,
         "within_share": 0.0, "zero_variance_share": 1.0}
    )  # fmt: skip
    alternating = (torch.arange(users.numel()) % 3).double()
    found = spread(alternating, episodes)
    assert found["within_user_std"] == pytest.approx(1.0) and found["zero_variance_share"] == 0.0
    report = check_reward(make(lambda scores, users: users.float()), "mine", ["ndcg"])
    assert any("never differs within a user" in line for line in report["verdict"])
    report = check_reward(make(lambda scores, users: torch.ones(len(users))), "mine")
    assert report["verdict"][1:] == [
        "It never differs for any list that was tried: nothing can be learnt from it at this exploration."
    ]


def test_of_visits_the_held_out_items_are_those_of_the_users_validation_rows() -> None:
    data = synthesize_checkins(num_users=12, num_items=20, seed=0)
    settings = {"data": data, "reward": "ndcg", "relevance": "train", "k": 5}
    backbone = backbone_for(data, "linear", {"repeat": 1.0})
    policy = DiffusionPolicy(backbone, num_steps=1)
    env = make_env("ReFiT-NYC-v0", policy, 8, settings, torch.device("cpu"))
    users = torch.as_tensor(env.problem.users[[0, 5, 9, -1]])
    episodes = run_episodes(env, policy, users, 0.05, (1.0,), seed=0)
    assert episodes.held_out_ndcg is not None
    found, there = episodes.held_out_ndcg
    rows = data.episodes
    assert isinstance(rows, RowDataset) and bool(there.any())
    best = episodes.scores.topk(5, dim=1).indices
    for value, known, user, items in zip(found, there, episodes.users.tolist(), best.tolist(), strict=True):
        later = set(data.valid.of(int(rows.sessions[user])).tolist())
        assert bool(known) == bool(later)
        gain = sum(1 / math.log2(place + 2) for place, item in enumerate(items) if item in later)
        ideal = sum(1 / math.log2(place + 2) for place in range(min(5, len(later)))) or 1.0
        assert float(value) == pytest.approx(gain / ideal, abs=1e-5)
