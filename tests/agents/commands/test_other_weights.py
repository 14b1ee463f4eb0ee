"""A run whose weights were replaced by those of another training is noticed wherever it is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from agents.cli import main
from refit_env.policy import DiffusionPolicy

QUICK = ["--quiet", "--device", "cpu"]


@pytest.fixture
def replaced(pretrained: Path, tmp_path: Path) -> Path:
    """A finished run, its weights and their readable copy those of another training."""
    run = tmp_path / "run"
    shutil.copytree(pretrained, run)
    policy = DiffusionPolicy.load(run)
    with torch.no_grad():
        next(policy.backbone.parameters()).mul_(1.01)
    policy.save(run, overwrite=True)
    return run


def commands(run: Path, out: Path) -> list[list[str]]:
    return [
        ["evaluate", "--run", str(run), "--device", "cpu"],
        ["recommend", "--run", str(run), "--user", "3", "--device", "cpu"],
        ["finetune", "--init", str(run), "--out", str(out / "rl"), "--iterations", "1", *QUICK],
        ["pretrain", "--init", str(run), "--out", str(out / "elbo"), "--epochs", "1", *QUICK],
    ]


def test_weights_of_another_training_are_refused_unless_they_are_meant(
    replaced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in commands(replaced, tmp_path):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "policy.safetensors holds the weights" in error and "--other-weights" in error
        assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    for words in commands(replaced, tmp_path):
        assert main([*words, "--other-weights"]) == 0


def test_a_run_of_an_earlier_version_states_no_weights_and_is_read(replaced: Path, tmp_path: Path) -> None:
    metrics = json.loads((replaced / "metrics.json").read_text())
    del metrics["weights"]
    (replaced / "metrics.json").write_text(json.dumps(metrics))
    assert all(main(words) == 0 for words in commands(replaced, tmp_path)[:3])
