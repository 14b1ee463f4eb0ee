"""Fine-tuning by the command line, for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.algorithms.reinforce import Reinforce
from agents.cli import main
from agents.runs.folder import RunFolder
from refit_env.checkpoint import load_checkpoint

SMALL = [
    "--users-per-batch",
    "32",
    "--eval-every",
    "2",
    "--learning-rate",
    "3e-4",
    "--quiet",
    "--device",
    "cpu",
]


def words(init: Path, out: Path, *more: str) -> list[str]:
    return ["finetune", "--init", str(init), "--out", str(out), *SMALL, "--iterations", "6", *more]


def interrupt(monkeypatch: pytest.MonkeyPatch, command: list[str], before: int) -> None:
    """Run a command, and end it by Ctrl-C within an iteration."""
    update = Reinforce.update

    def stop(self: Reinforce, users: object) -> dict[str, float]:
        if self.iteration == before - 1:
            raise KeyboardInterrupt
        return update(self, users)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Reinforce, "update", stop)
        assert main(command) == 130


def same(run: Path, other: Path) -> bool:
    mine, theirs = load_checkpoint(run)[0], load_checkpoint(other)[0]
    metrics = [RunFolder(path).metrics for path in (run, other)]
    return all(mine[name].equal(theirs[name]) for name in mine) and all(
        metrics[0][key] == metrics[1][key]  # type: ignore[literal-required]
        for key in ("before", "after", "training")
    )
