"""Small environments, policies that fit them, and every sensible stack of wrappers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from refit_env.backbones import make_backbone
from refit_env.data import Dataset, synthesize
from refit_env.envs import wrappers
from refit_env.envs.wrappers import vector
from refit_env.policy import DiffusionPolicy

ITEMS, STEPS = 60, 3
SETTINGS: dict[str, Any] = {"num_steps": STEPS, "k": 10, "relevance": "holdout"}
ARGUMENTS = {"LowRankAction": (4,), "TopKObservation": (5,), "FactorObservation": (6,)}
STACKS = (
    ("ResidualAction",),
    ("TopKObservation",),
    ("FactorObservation",),
    ("ResidualAction", "LowRankAction"),
    ("ResidualAction", "LowRankAction", "TopKObservation"),
    ("ResidualAction", "LowRankAction", "FactorObservation"),
    ("ResidualAction", "FactorObservation", "LowRankAction"),
    ("TopKObservation", "ResidualAction"),
    ("FactorObservation", "ResidualAction", "LowRankAction"),
)
"""Names of wrappers, innermost first."""


@dataclass(frozen=True)
class Stack:
    """Wrappers, innermost first, for single and for vector environments alike."""

    names: tuple[str, ...]

    def _wrap(self, env: Any, policy: Any, module: Any) -> Any:
        for name in self.names:
            env = getattr(module, name)(env, *((policy,) if name == "ResidualAction" else ARGUMENTS[name]))
        return env

    def single(self, env: Any, policy: Any) -> Any:
        return self._wrap(env, policy, wrappers)

    def vector(self, env: Any, policy: Any) -> Any:
        return self._wrap(env, policy, vector)


@pytest.fixture(params=STACKS, ids=", ".join)
def stack(request: pytest.FixtureRequest) -> Stack:
    return Stack(request.param)


@pytest.fixture(params=[names for names in STACKS if "ResidualAction" in names], ids=", ".join)
def residual_stack(request: pytest.FixtureRequest) -> Stack:
    return Stack(request.param)


@pytest.fixture(scope="session")
def data() -> Dataset:
    return synthesize(seed=2, num_users=50, num_items=ITEMS, num_clusters=4)


@pytest.fixture(scope="session")
def make_policy() -> Callable[..., DiffusionPolicy]:
    """Makes untrained policies whose vectors change much."""

    def made(items: int = ITEMS, steps: int = STEPS, std: float = 0.1, seed: int = 0) -> DiffusionPolicy:
        config = {"hidden": (16,), "num_steps": 6, "noise_scale": 0.5, "noise_min": 0.01, "noise_max": 0.5}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return DiffusionPolicy(make_backbone("diffrec", items, config), steps, std).requires_grad_(False)

    return made


@pytest.fixture
def policy(make_policy: Any) -> DiffusionPolicy:
    return make_policy().eval()


@pytest.fixture
def make(data: Dataset) -> Callable[..., Any]:
    """Makes the single environment."""
    return lambda **kwargs: gym.make("ReFiT-Custom-v0", **(SETTINGS | {"data": data} | kwargs))


@pytest.fixture
def make_vec(data: Dataset) -> Callable[..., Any]:
    """Makes the vector environment."""

    def made(num_envs: int = 3, **kwargs: Any) -> Any:
        return gym.make_vec("ReFiT-Custom-v0", num_envs=num_envs, **(SETTINGS | {"data": data} | kwargs))

    return made


@pytest.fixture(scope="session")
def synthetic_run(make_policy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a policy of ReFiT-Synthetic-v0."""
    folder = tmp_path_factory.mktemp("run")
    make_policy(items=400).save(folder)
    return folder
