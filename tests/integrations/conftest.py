"""Tests with other libraries, one folder an environment: ``make test-integrations`` makes both and runs them.

Where a library is not installed its tests are skipped, except there: the variable ``REFIT_INTEGRATION``
names the folder, and what the folder needs and does not find is then an error.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import pretrain
from refit_env.backbones import make_backbone
from refit_env.data import load_dataset
from refit_env.policy import DiffusionPolicy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def need() -> Callable[[str, str], ModuleType]:
    """``need(module, folder)``: the module, or a skip, or (``make test-integrations``) its ImportError."""

    def find(module: str, folder: str) -> ModuleType:
        if os.environ.get("REFIT_INTEGRATION") == folder:
            return importlib.import_module(module)
        reason = f"{module} is not installed: make test-{folder} installs and runs this"
        return pytest.importorskip(module, reason=reason)

    return find


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """``example(name)``: the example as a module that worker processes can import by its name, too."""

    def find(name: str) -> ModuleType:
        folder = str(ROOT / "examples")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("PYTHONPATH", folder, prepend=os.pathsep)
        return importlib.import_module(name)

    return find


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a policy, pretrained on the embedded data set until validation is content."""
    folder = tmp_path_factory.mktemp("pretrained")
    trained = pretrain(load_dataset("synthetic"), config=PretrainConfig(), seed=0, device="cpu")
    DiffusionPolicy(trained.backbone, num_steps=4).save(folder)
    return folder


@pytest.fixture(scope="session")
def foreign_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a policy for a catalogue of forty items."""
    folder = tmp_path_factory.mktemp("foreign")
    DiffusionPolicy(make_backbone("diffrec", 40, {"hidden": (8,)}), num_steps=4).save(folder)
    return folder
