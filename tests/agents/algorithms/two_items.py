"""A problem so small that gradients can be compared with finite differences of the expected reward.

Users who had item 0 and will have item 1 of three; item 0 is seen and kept out of the list of one. Half of
the users are rewarded, the others select.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from agents.training.fine_tuner import FineTuner
from refit_env.backbones import make_backbone
from refit_env.data import Dataset
from refit_env.data.interactions import Interactions
from refit_env.policy import DiffusionPolicy

Agent = TypeVar("Agent", bound=FineTuner)
NETWORK = {"hidden": (4,), "num_steps": 3, "noise_scale": 0.5, "noise_min": 0.1, "noise_max": 0.5}
PROBED = ((1, 0), (2, 1), (1, 3))
"""Weights of the output layer whose slopes are compared."""
STEP = 0.05


def agent_on(cls: type[Agent], policy: DiffusionPolicy, data: Dataset, config: Any, **goal: Any) -> Agent:
    """An agent on a data set of its own, by default for NDCG@5 of recent items."""
    kwargs = {"data": data, "reward": "ndcg", "k": 5, "relevance": "recent"} | goal
    return cls(policy, "ReFiT-Custom-v0", config, env_kwargs=kwargs, seed=3, device="cpu")


def two_item_agent(cls: type[Agent], config: Any, steps: int, users: int = 2) -> Agent:
    """An agent on the problem with a small network and a chain of ``steps`` steps; ``users`` are alike."""
    rows = Interactions.from_pairs(range(users), [0] * users, users, 3)
    later = Interactions.from_pairs(range(users), [1] * users, users, 3)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        policy = DiffusionPolicy(make_backbone("diffrec", 3, NETWORK), steps)
    data = Dataset("two", "cf", rows, later, later, time_ordered=True)
    return agent_on(cls, policy, data, config, reward="r_ra", k=1, relevance="validation")


def expected(learner: FineTuner, noise: list[Tensor], of: Callable[[Tensor], Tensor] = lambda r: r) -> float:
    """Mean of a function of the reward over common random numbers."""
    policy = learner.policy
    with torch.no_grad():
        x = learner.env.problem.initial_state(torch.tensor([0])).expand(len(noise[0]), -1)
        for t in range(policy.num_steps):
            x = policy.mean(x, t) + policy.std[t] * noise[t]
    return float(of((x[:, 1] > x[:, 2]).double()).mean())


def check_slopes(
    learner: FineTuner,
    objective: Callable[[list[Tensor]], float],
    batches: int,
    scale: float = 1.0,
    least: float = 0.0,
) -> None:
    """The mean gradient of ``batches`` updates is that of an objective, within its standard error.

    Args:
        learner: of ``two_item_agent``.
        objective: a value of the noise of each step, with the weights as they are.
        batches: how many updates.
        scale: factor of the gradients that ``update`` makes.
        least: by how much the slopes must differ from 0, so that a gradient of 0 would be noticed.
    """
    policy = learner.policy
    parameter = policy.backbone.layers[1].weight  # type: ignore[union-attr,index]
    grads = []
    for _ in range(batches):
        learner.optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
        learner.update(torch.tensor([0]))
        assert isinstance(parameter.grad, Tensor)
        grads.append(scale * parameter.grad.detach().clone())
    estimate, error = torch.stack(grads).mean(0), torch.stack(grads).std(0) / math.sqrt(len(grads))
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(400_000, 3, generator=generator) for _ in range(policy.num_steps)]
    for index in PROBED:
        values = []
        for move in (STEP, -2 * STEP, STEP):
            with torch.no_grad():
                parameter[index] += move  # type: ignore[index]
            values.append(objective(noise) if len(values) < 2 else 0.0)
        slope = (values[0] - values[1]) / (2 * STEP)
        assert abs(float(estimate[index]) - slope) < 5 * float(error[index]) + 0.006, index
        assert float(error[index]) < 0.02 or not least
        assert abs(slope) > least or not least
