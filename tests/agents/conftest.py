"""Small problems that the agents' tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refit_env.backbones import backbone_names, make_backbone
from refit_env.data import (
    Dataset,
    synthesize,
    synthesize_checkins,
    synthesize_sessions,
    synthesize_social,
)
from refit_env.policy import DiffusionPolicy


@pytest.fixture(scope="session")
def small_data() -> Dataset:
    """Sixty users, forty items."""
    return synthesize(seed=1, num_users=60, num_items=40, num_clusters=4, mean_events=14)


@pytest.fixture(scope="session")
def task_data() -> dict[str, Dataset]:
    """A set of each task, a few dozen users."""
    return {
        "cf": synthesize(num_users=40, num_items=30, seed=0),
        "sequential": synthesize_sessions(num_sessions=60, num_items=24),
        "social": synthesize_social(num_users=40, num_items=30, meets=10),
        "poi": synthesize_checkins(num_users=15, num_items=24, checkins=20),
    }


@pytest.fixture(scope="session")
def small_configs() -> dict[str, dict[str, Any]]:
    """Backbone -> changes to its configuration that make it small; every registered one is there."""
    configs: dict[str, dict[str, Any]] = {
        "diffrec": {"hidden": (16,), "num_steps": 5},
        "t-diffrec": {"hidden": (16,), "num_steps": 5},
        "cf-diff": {"tokens": 8, "heads": 2},
        "l-diffrec": {"latent": 16, "hidden": (16,)},
        "hdrm": {"embedding": 8, "hidden": (8,)},
        "dreamrec": {"embedding": 8, "history": 5, "num_steps": 10},
        "causal-dreamrec": {"embedding": 8, "history": 5, "num_steps": 10, "blocks": 1, "guidance": 1.0},
        "recdiff": {"embedding": 6, "hidden": 8, "num_steps": 6},
        "hybrid": {"hidden": (8,), "num_steps": 5},
        "linear": {"num_steps": 5},
        "spectral": {"rank": 8, "num_steps": 5},
        "stacked": {"hidden": 8, "num_steps": 5},
        "diff-poi": {"embedding": 8, "history": 6, "num_steps": 10, "chain_steps": 2},
    }
    assert set(configs) == set(backbone_names())
    return configs


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


@pytest.fixture
def check_resume(make_policy, tmp_path: Path):  # a check, typed where it is used
    """Breaks a run off after three iterations: the resumed one must equal an unbroken one bit for bit."""
    import torch

    def check(make_agent: Callable[[DiffusionPolicy], Any]) -> None:
        whole = make_agent(make_policy())
        whole.learn(tmp_path / "whole")
        first = make_agent(make_policy())

        def interrupt(learner: Any, scalars: dict[str, float]) -> None:
            if learner.iteration == 3:
                raise KeyboardInterrupt

        assert first.learn(tmp_path / "broken", callback=interrupt).interrupted
        second = make_agent(make_policy(seed=9)).load(tmp_path / "broken")  # another model: all is loaded
        second.learn(tmp_path / "broken")
        for a, b in zip(whole.policy.state_dict().values(), second.policy.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        timeless = [
            [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in run.history]
            for run in (whole, second)
        ]
        assert timeless[0] == timeless[1]

    return check
