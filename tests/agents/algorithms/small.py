"""REINFORCE on the small data set, with few iterations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from refit_env.data import Dataset
from refit_env.policy import DiffusionPolicy
from tests.agents.algorithms.two_items import agent_on

Factory = Callable[..., DiffusionPolicy]
SMALL = ReinforceConfig(iterations=4, users_per_batch=8, samples_per_user=2, eval_every=2, learning_rate=1e-3)


def agent(policy: DiffusionPolicy, data: Dataset, config: ReinforceConfig = SMALL, **goal: Any) -> Reinforce:
    """Return a REINFORCE agent with the settings ``SMALL``."""
    return agent_on(Reinforce, policy, data, config, **goal)
