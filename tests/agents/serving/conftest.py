from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refit_env.backbones import backbone_class, backbone_for
from refit_env.backbones.closed_form import ClosedForm
from refit_env.data import Dataset
from refit_env.data.identity import DataIdentity
from refit_env.policy import DiffusionPolicy
from tests.shops import write_shop

MakePolicy = Callable[..., tuple[DiffusionPolicy, Dataset]]


@pytest.fixture
def policy_of(task_data: dict[str, Dataset], small_configs: dict[str, dict[str, Any]]) -> MakePolicy:
    """A factory: a backbone's name -> an untrained policy (closed forms are fitted) and its data."""

    def make(name: str, num_steps: int = 2, **options: Any) -> tuple[DiffusionPolicy, Dataset]:
        tasks = backbone_class(name).tasks
        data = task_data["cf" if "cf" in tasks else tasks[0]]
        if "places" in options:
            rng = np.random.default_rng(0)
            data = replace(data, item_features={key: rng.random(data.num_items) for key in ("lat", "lon")})
        backbone = backbone_for(data, name, {**small_configs[name], **options}, seed=0)
        if isinstance(backbone, ClosedForm):
            backbone.fit(data)
        backbone.trained_on = DataIdentity.of(data)
        return DiffusionPolicy(backbone, num_steps).eval(), data

    return make


@pytest.fixture(scope="session")
def shop_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data whose source has ids and titles, a run, and a run that was fine-tuned from it."""
    folder = tmp_path_factory.mktemp("shop")
    return write_shop(folder, 30, 50, "<b>No. {}</b>", hidden=8, steps=3)


@pytest.fixture
def shop(shop_template: Path, tmp_path: Path) -> Path:
    """A copy of the folder, which a test may change."""
    folder = Path(shutil.copytree(shop_template, tmp_path / "shop"))
    for path in folder.glob("*/config.json"):
        path.write_text(path.read_text().replace(str(shop_template), str(folder)))
    return folder


@pytest.fixture
def connect(shop: Path) -> Iterator[Callable[..., Any]]:
    """A factory of clients of a service on the fine-tuned run."""
    from tests.agents.serving.clients import clients  # it needs the extra serve

    with clients(shop) as make:
        yield make
