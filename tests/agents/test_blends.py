"""Blends: the ends, the choice by validation, and that an agent which looks at none is unchanged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from agents.blends import best_between, between
from agents.reinforce import Reinforce, ReinforceConfig
from refit_env.backbones import backbone_for
from refit_env.data import load_dataset
from refit_env.policy import DiffusionPolicy

CONFIG = ReinforceConfig(iterations=4, eval_every=2, users_per_batch=64, learning_rate=1e-2)


class Valued(nn.Module):
    """One weight, and a buffer that is data."""

    def __init__(self, weight: float, data: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.register_buffer("data", torch.tensor(data))


def test_weights_move_and_data_do_not() -> None:
    start, end = Valued(1.0, 7.0), Valued(3.0, 9.0)
    found = between(start, end.state_dict(), 0.75)
    assert found["weight"].item() == 2.5 and found["data"].item() == 9.0
    assert torch.equal(between(start, end.state_dict(), 1.0)["weight"], end.weight)


@pytest.mark.parametrize(("top", "expected"), [(2.0, 0.5), (3.0, 1.0), (1.4, 0.25)])
def test_the_best_point_is_kept(top: float, expected: float) -> None:
    policy, start, end = Valued(0.0, 0.0), Valued(1.0, 0.0), Valued(3.0, 0.0).state_dict()

    def look() -> float:
        return -abs(policy.weight.item() - top)

    value, share = best_between(policy, start, end, 3, -abs(3.0 - top), look)
    assert share == expected and value == look()
    assert policy.weight.item() == 1.0 + 2.0 * expected


def test_an_agent_looks_at_as_many_and_reports_what_it_kept() -> None:
    data = load_dataset("synthetic")
    policy = DiffusionPolicy(backbone_for(data, "diffrec", {"hidden": (16,)}, seed=0), 2)
    start = {name: value.clone() for name, value in policy.named_parameters()}

    def learn(blends: int) -> tuple[Reinforce, float]:
        policy.load_state_dict(policy.state_dict() | start)
        agent = Reinforce(policy, "ReFiT-Synthetic-v0", replace(CONFIG, blends=blends), device="cpu")
        result = agent.learn()
        value = agent.evaluate("valid").means()["ndcg@20"]
        assert result.best_value == pytest.approx(value, abs=1e-7)
        for name, weight in agent.policy.named_parameters():
            chosen = agent._best_state[name]
            assert torch.allclose(weight, torch.lerp(start[name], chosen, result.share), atol=1e-7)
        return agent, result.share

    agent, share = learn(0)
    assert share == 1.0
    chosen = agent._best[0]
    agent, share = learn(3)
    assert agent._best[0] == chosen  # training itself is the same
    assert share in (0.25, 0.5, 0.75, 1.0)
