"""Every registered id as a fixture, skipped with a reason where its data is absent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from refit_env.backbones import backbone_class, backbone_for
from refit_env.data import Dataset, load_dataset, save_dataset, synthesize
from refit_env.errors import DataError
from refit_env.policy import DiffusionPolicy
from refit_env.registration import entry, env_ids


@dataclass(frozen=True)
class Case:
    """An id with what it needs besides."""

    env_id: str
    kwargs: dict[str, Any] = field(default_factory=dict)

    def make(self, **kwargs: Any) -> gym.Env[Any, Any]:
        return gym.make(self.env_id, **(self.kwargs | kwargs))

    def make_vec(self, num_envs: int, **kwargs: Any) -> gym.vector.VectorEnv[Any, Any, Any]:
        return gym.make_vec(self.env_id, num_envs=num_envs, **(self.kwargs | kwargs))


@pytest.fixture(scope="session")
def custom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("custom") / "mine"
    save_dataset(synthesize(seed=1, num_users=40, num_items=60), folder)
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Dataset], str]:
    """A function (backbone, data set) -> folder of an untrained model of it, to score embeddings by."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def make(backbone: str, dataset: Dataset) -> str:
        where = folder / f"{backbone}-{dataset.name}-{dataset.num_items}"
        if not where.exists():
            model = backbone_for(dataset, backbone, seed=0)
            DiffusionPolicy(model, num_steps=10).save(where, dataset)
        return str(where)

    return make


@pytest.fixture(params=env_ids())
def case(request: pytest.FixtureRequest, checkpoints: Callable[[str, Dataset], str]) -> Case:
    row = entry(request.param)
    if row.dataset is None:
        return Case(request.param, {"data": str(request.getfixturevalue("custom_folder"))})
    try:
        dataset = load_dataset(row.dataset)
    except DataError as error:
        pytest.skip(f"no data for {request.param}: {error}")
    if backbone_class(row.backbone).embedding:
        return Case(request.param, {"checkpoint": checkpoints(row.backbone, dataset)})
    return Case(request.param)


@pytest.fixture
def synthetic() -> Case:
    return Case("ReFiT-Synthetic-v0")
