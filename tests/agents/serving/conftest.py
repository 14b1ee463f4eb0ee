from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from refit_env.backbones import backbone_for
from refit_env.backbones.closed_form import ClosedForm
from refit_env.data import Dataset
from refit_env.data.identity import DataIdentity
from refit_env.policy import DiffusionPolicy

MakePolicy = Callable[..., tuple[DiffusionPolicy, Dataset]]


@pytest.fixture
def policy_of(task_data: dict[str, Dataset], small_configs: dict[str, dict[str, Any]]) -> MakePolicy:
    """A factory: a backbone's name -> an untrained policy (closed forms are fitted) and its data."""

    def make(name: str, num_steps: int = 2, **options: Any) -> tuple[DiffusionPolicy, Dataset]:
        task = {"recdiff": "social", "dreamrec": "sequential", "diff-poi": "poi"}.get(name, "cf")
        data = task_data[task]
        backbone = backbone_for(data, name, {**small_configs[name], **options}, seed=0)
        if isinstance(backbone, ClosedForm):
            backbone.fit(data)
        backbone.trained_on = DataIdentity.of(data)
        return DiffusionPolicy(backbone, num_steps).eval(), data

    return make
