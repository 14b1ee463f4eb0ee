"""A small problem that the agents' tests share."""

from __future__ import annotations

import pytest

from refit_env.backbones import make_backbone
from refit_env.data import Dataset, synthesize
from refit_env.policy import DiffusionPolicy


@pytest.fixture(scope="session")
def small_data() -> Dataset:
    """Sixty users, forty items."""
    return synthesize(seed=1, num_users=60, num_items=40, num_clusters=4, mean_events=14)


@pytest.fixture
def make_policy(small_data: Dataset):  # a factory, typed where it is used
    """A factory of untrained policies: the same weights at every call."""
    import torch

    def make(num_steps: int = 3, exploration_std: float = 0.1, seed: int = 0) -> DiffusionPolicy:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = {
                "hidden": (16,),
                "num_steps": 5,
                "noise_scale": 0.01,
                "noise_min": 0.001,
                "noise_max": 0.01,
            }
            backbone = make_backbone("diffrec", small_data.num_items, config)
        return DiffusionPolicy(backbone, num_steps, exploration_std)

    return make
