from __future__ import annotations

from pathlib import Path

import pytest

from agents.cli import main

QUICK = ["--quiet", "--device", "cpu", "--epochs", "4", "--backbone-options", "hidden=[32]", "num_steps=10"]


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a small model, shared by all tests, which must not change it."""
    out = tmp_path_factory.mktemp("runs") / "elbo"
    assert main(["pretrain", "--env", "ReFiT-Synthetic-v0", "--out", str(out), *QUICK]) == 0
    return out


@pytest.fixture(scope="session")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in canonical form, as a user would bring."""
    from refit_env.data import save_dataset, synthesize

    folder = tmp_path_factory.mktemp("data") / "shop"
    save_dataset(synthesize(num_users=60, num_items=50), folder)
    return folder
