from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refit_env.backbones import backbone_for
from refit_env.backbones.closed_form import ClosedForm
from refit_env.data import Dataset, load_dataset, save_dataset, synthesize
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


def write_run(folder: Path, policy: DiffusionPolicy, data: Dataset, **config: Any) -> Path:
    """Write a finished run of a policy on data that has a folder ``folder.parent / "data"``."""
    policy.save(folder, data)
    content = {"command": "pretrain", "env": "ReFiT-Custom-v0", "data": str(folder.parent / "data"), **config}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "metrics.json").write_text("{}")
    return folder


@pytest.fixture(scope="session")
def shop_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data whose source has ids and titles, a run, and a run that was fine-tuned from it."""
    folder = tmp_path_factory.mktemp("shop")
    data = replace(
        synthesize(num_users=30, num_items=50),
        user_ids=np.array([f"user-{n:02d}" for n in range(30)], dtype=object),
        item_ids=np.array([f"sku-{n:03d}" for n in range(50)], dtype=object),
        item_features={"title": np.array([f"<b>No. {n}</b>" for n in range(50)], dtype=object)},
    )
    save_dataset(replace(data, name="shop"), folder / "data")
    data = load_dataset(folder / "data")
    start = write_run(folder / "start", policy_on(data, 0), data)
    write_run(folder / "tuned", policy_on(data, 1), data, command="finetune", init=str(start))
    return folder


def policy_on(data: Dataset, seed: int) -> DiffusionPolicy:
    """A small untrained policy."""
    options = {"hidden": (8,), "num_steps": 5}
    return DiffusionPolicy(backbone_for(data, "diffrec", options, seed=seed), 3).eval()


@pytest.fixture
def shop(shop_template: Path, tmp_path: Path) -> Path:
    """A copy of the folder, which a test may change."""
    folder = Path(shutil.copytree(shop_template, tmp_path / "shop"))
    for path in folder.glob("*/config.json"):
        path.write_text(path.read_text().replace(str(shop_template), str(folder)))
    return folder
