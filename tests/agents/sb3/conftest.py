"""Fixtures of the Stable-Baselines3 tests: a small run folder and small environments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.sb3 import GymVecEnv, to_sb3_vec_env
from refit_env.data import Dataset
from refit_env.envs import DenoisingVectorEnv


@pytest.fixture
def run_folder(make_policy: Any, small_data: Dataset, tmp_path: Path) -> Path:
    """Return the folder of a pretraining run on the small data: T = 3, std 0.1."""
    folder = tmp_path / "run"
    make_policy().save(folder, small_data)
    return folder


@pytest.fixture
def make_envs(small_data: Dataset) -> Callable[..., GymVecEnv]:
    """Return a factory of adapted environments on the small data."""

    def make(num_envs: int = 4, **kwargs: Any) -> GymVecEnv:
        settings: dict[str, Any] = {"num_steps": 3, "reward": "ndcg", "relevance": "train", "k": 5}
        return to_sb3_vec_env(DenoisingVectorEnv(small_data, num_envs=num_envs, **(settings | kwargs)))

    return make
