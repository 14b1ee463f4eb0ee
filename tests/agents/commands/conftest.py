from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from agents.cli import main
from agents.experiments.cell_processes import Processes, attempt
from agents.experiments.records import Cell
from tests.agents.commands.fine_tuning import words

QUICK = ["--quiet", "--device", "cpu", "--epochs", "4", "--backbone-options", "hidden=[32]", "num_steps=10"]


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a small model, shared by all tests, which must not change it."""
    out = tmp_path_factory.mktemp("runs") / "elbo"
    assert main(["pretrain", "--env", "ReFiT-Synthetic-v0", "--out", str(out), *QUICK]) == 0
    return out


@pytest.fixture(scope="session")
def tuned(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of its fine-tuning, which tests must not change either."""
    out = tmp_path_factory.mktemp("runs") / "rl"
    assert main(words(pretrained, out, "--env", "ReFiT-Synthetic-v0", "--reward", "racs")) == 0
    return out


@pytest.fixture(scope="session")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in canonical form, as a user would bring."""
    from refit_env.data import save_dataset, synthesize

    folder = tmp_path_factory.mktemp("data") / "shop"
    save_dataset(synthesize(num_users=60, num_items=50), folder)
    return folder


class Here:
    """An engine that does cells in this process: no other process has to import torch first."""

    def begin(self, cell: Cell, records: Path, command: str) -> list[str]:
        return [attempt(cell, records, command)]

    def ended(self, runs: Sequence[list[str]], seconds: float | None) -> list[list[str]]:
        return list(runs)

    def error(self, run: list[str]) -> str:
        return run[0]

    def stop(self, runs: Sequence[list[str]]) -> None:
        assert not runs


@pytest.fixture
def cells_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """``refit compare`` does its cells in this process."""
    for name in ("begin", "ended", "error", "stop"):
        monkeypatch.setattr(Processes, name, getattr(Here, name))
