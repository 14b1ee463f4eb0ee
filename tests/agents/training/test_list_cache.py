"""Tests of the cache of neighbours' lists: what is made, when, and that a reward reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.training.list_cache import NEVER, ListCache
from refit_env.backbones import backbone_for
from refit_env.data import synthesize
from refit_env.errors import SettingError
from refit_env.policy import DiffusionPolicy
from refit_env.rewards import Reward, make_relevance, make_reward

DATA = synthesize(num_users=40, num_items=40, num_clusters=4)
LISTS: dict[str, Any] = {"variant": "neighbor_lists", "neighbors": 3}


def reward_of(name: Any = "racs", **settings: Any) -> Reward:
    relevance = make_relevance("recent", DATA)
    return make_reward(name, DATA, relevance, k=5, **settings)


def test_a_list_is_made_when_it_is_needed_and_again_after_its_time() -> None:
    reward, scored = reward_of(**LISTS), []
    cache = ListCache(reward, ttl=2)

    def score(users: torch.Tensor) -> torch.Tensor:
        scored.append(users)
        return torch.arange(40.0).expand(users.numel(), -1) * (1.0 if len(scored) == 1 else -1.0)

    users = torch.tensor([0, 7])
    needed = reward.lists_read(users)
    assert needed is not None and 0 < needed.numel() <= 6
    assert cache.refresh(users, 0, score) == {"lists/cache_hits": 0.0}
    assert torch.equal(torch.cat(scored), needed) and int((cache.made == NEVER).sum()) == 40 - needed.numel()
    first = cache.lists[needed].clone()
    assert cache.refresh(users, 1, score) == {"lists/cache_hits": 1.0} and len(scored) == 1
    assert cache.refresh(users, 2, score) == {"lists/cache_hits": 0.0} and len(scored) == 2
    assert not torch.equal(cache.lists[needed], first)


def test_the_reward_is_that_of_lists_of_all_users() -> None:
    score = torch.rand(40, 40, generator=torch.Generator().manual_seed(0))
    scorer, users = (lambda some: score[some]), torch.tensor([3, 11, 3])
    whole, cached = reward_of(**LISTS), reward_of(**LISTS)
    whole.refresh(scorer)
    ListCache(cached, 5).refresh(users, 0, scorer)
    expected, found = (reward(score[users], users) for reward in (whole, cached))
    assert torch.equal(expected.value, found.value) and float(found.terms["n_sim_k"].sum()) > 0


@pytest.mark.parametrize(
    ("reward", "reads"),
    [
        (reward_of(), "none"),
        (reward_of("coverage"), "those of all users"),
        (reward_of({"racs": 1.0, "coverage": 0.1}), "those of all users"),
    ],
)
def test_rewards_without_lists_of_some_users_are_refused(reward: Reward, reads: str) -> None:
    with pytest.raises(SettingError, match=f"lists_ttl must be 0 .* this one reads {reads}, found 3"):
        ListCache(reward, 3)


def make(iterations: int) -> Reinforce:
    policy = DiffusionPolicy(backbone_for(DATA, "diffrec", {"hidden": (8,), "num_steps": 5}, seed=0), 2)
    goal = {"data": DATA, "reward": "racs", "reward_kwargs": LISTS, "k": 5}
    config = ReinforceConfig(users_per_batch=4, iterations=iterations, eval_every=2, lists_ttl=3)
    return Reinforce(policy, "ReFiT-Custom-v0", config, env_kwargs=goal, device="cpu")


def test_a_resumed_run_has_the_cache_of_an_unbroken_one(tmp_path: Path) -> None:
    whole, first, again = make(4), make(2), make(4)
    whole.learn()
    first.learn(tmp_path)
    again.load(tmp_path)
    again.learn(tmp_path)
    for a, b in zip(whole.history[1:], again.history[1:], strict=True):
        assert (a["reward/mean"], a["lists/cache_hits"]) == (b["reward/mean"], b["lists/cache_hits"])
    # The monitors of the first validation needed all lists, which are too old in the fourth iteration.
    assert [row["lists/cache_hits"] for row in whole.history[1:]] == [1.0, 1.0, 1.0, 0.0]
