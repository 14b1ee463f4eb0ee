"""A comparison so small that it takes seconds."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from agents.experiments.cells import do_cell
from agents.experiments.contest import CELLS, plan
from agents.experiments.rows import choose_rows
from agents.hyperparams import algorithms as settings
from agents.hyperparams.algorithms import EnvSettings
from agents.training.pretrain_config import PretrainConfig

ENV = "ReFiT-Synthetic-v0"


TINY = EnvSettings(
    steps=600,
    looks=3,
    pretrain=PretrainConfig(epochs=2),
    more_elbo=replace(EnvSettings().more_elbo, epochs=3),
    tuned={"reinforce": {"users_per_batch": 16, "learning_rate": 3e-4}, "ppo": {"users_per_batch": 16}},
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> EnvSettings:
    """Settings that take the place of the synthetic environment's own; jobs carry them to other processes."""
    monkeypatch.setitem(settings.SETTINGS, ENV, TINY)
    return TINY


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison whose cells are finished, one seed; tests must not change it."""
    out = tmp_path_factory.mktemp("measured")
    for cell in plan([ENV], choose_rows("elbo,ppo"), [0], out, settings={ENV: TINY}):
        do_cell(cell, out / CELLS)
    return out


@pytest.fixture
def finished(measured: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed at will."""
    return Path(shutil.copytree(measured, tmp_path / "finished"))
