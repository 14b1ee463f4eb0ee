"""Weights of a mix that follow a schedule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agents import Reinforce, ReinforceConfig
from agents.commands.options import parse_reward
from refit_env import load_policy
from refit_env.data.dataset import Dataset
from refit_env.errors import CheckpointError
from refit_env.rewards import make_relevance, make_reward

SCORES = torch.eye(6)[[0, 1]]
USERS = torch.tensor([0, 1])


def test_a_weight_rises_over_the_training(five: Dataset) -> None:
    relevance = make_relevance("train", five)
    mix = make_reward({"ndcg": 1.0, "novelty": "0.5->-1.5"}, five, relevance, k=2)
    steady = {w: make_reward({"ndcg": 1.0, "novelty": w}, five, relevance, k=2) for w in (0.5, -0.5, -1.5)}
    assert mix.scheduled and not steady[0.5].scheduled
    for share, weight in ((0.0, 0.5), (0.5, -0.5), (1.0, -1.5), (2.0, -1.5)):
        mix.set_progress(share)
        assert torch.equal(mix(SCORES, USERS).value, steady[weight](SCORES, USERS).value)
        assert [w for _, w in mix.parts()] == [1.0, weight]
    own = mix.with_own_lists()
    own.set_progress(0.0)  # environments do not share it
    assert mix.parts()[1][1] == -1.5 and own.parts()[1][1] == 0.5


@pytest.mark.parametrize("weight", ["0->x", "half", "1e9->0", "nan->1"])
def test_what_is_no_schedule_is_refused(weight: str, five: Dataset) -> None:
    with pytest.raises(ValueError, match="reward weight of 'novelty' must be"):
        make_reward({"ndcg": 1.0, "novelty": weight}, five, make_relevance("train", five), k=2)


def test_schedules_on_the_command_line() -> None:
    assert parse_reward("ndcg=1,coverage=0->0.5") == {"ndcg": 1, "coverage": "0->0.5"}
    with pytest.raises(ValueError, match=r"the weight of coverage is not a number, nor a schedule 0->0.5"):
        parse_reward("ndcg=1,coverage=0->")


def test_an_agent_follows_it_and_its_length_is_part_of_the_state(tmp_path: Path) -> None:
    def agent(iterations: int) -> Reinforce:
        config = ReinforceConfig(iterations=iterations, eval_every=2, users_per_batch=8)
        kwargs = {"reward": {"ndcg": 1.0, "novelty": "0->1"}}
        policy = load_policy("ReFiT-Synthetic-v0", num_steps=1)
        return Reinforce(policy, "ReFiT-Synthetic-v0", config, env_kwargs=kwargs, device="cpu")

    seen = []
    first = agent(4)
    first.learn(tmp_path, callback=lambda a, _: seen.append(a.env.problem.reward_fn.parts()[1][1]))
    assert np.allclose(seen, [0.0, 0.25, 0.5, 0.75])
    with pytest.raises(CheckpointError, match="iterations"):
        agent(8).load(tmp_path)
