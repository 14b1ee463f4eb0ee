"""Blends: the ends, the choice by validation, and that an agent without blends is unchanged."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.training.fine_tuner import FineTuneResult
from agents.training.weight_interpolation import best_between, between
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


@pytest.mark.parametrize(("top", "expected"), [(2.0, 0.5), (9.0, 0.75), (1.4, 0.25)])
def test_the_best_point_is_kept(top: float, expected: float) -> None:
    policy, start = Valued(3.0, 0.0), Valued(1.0, 0.0)
    value, share, state = best_between(policy, start, 3, lambda: -abs(policy.weight.item() - top))
    assert share == expected and state["weight"].item() == 1.0 + 2.0 * expected
    assert value == -abs(state["weight"].item() - top)


def test_an_agent_keeps_a_blend_only_if_validation_prefers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_dataset("synthetic")
    first = DiffusionPolicy(backbone_for(data, "diffrec", {"hidden": (16,)}, seed=0), 2)
    start = {name: value.clone() for name, value in first.named_parameters()}
    last: list[dict[str, torch.Tensor]] = []

    def learn(blends: int, value: float | None = None) -> tuple[Reinforce, FineTuneResult]:
        policy = DiffusionPolicy(backbone_for(data, "diffrec", {"hidden": (16,)}, seed=0), 2)
        agent = Reinforce(policy, "ReFiT-Synthetic-v0", replace(CONFIG, blends=blends), device="cpu")
        if value is not None:
            monkeypatch.setattr(agent, "_value", lambda: value)
        result = agent.learn(callback=lambda a, _: last.append(copy.deepcopy(a.policy.state_dict())))
        return agent, result

    agent, plain = learn(0)
    assert plain.share == 1.0 and (plain.best_value, plain.best_iteration) == agent._best
    agent, result = learn(3, value=-1.0)
    assert (result.share, result.best_value) == (1.0, plain.best_value)
    for name, weight in agent.policy.named_parameters():
        assert torch.equal(weight, agent._best_state[name])
    agent, result = learn(1, value=2.0)
    assert (result.share, result.best_value, result.best_iteration) == (0.5, 2.0, 4)
    for name, weight in agent.policy.named_parameters():
        assert torch.allclose(weight, (start[name] + last[-1][name]) / 2, atol=1e-7)
    assert agent._best[0] == plain.best_value  # training itself is the same
