"""``refit compare algorithms`` end to end, on budgets of seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.cli import main
from agents.hyperparams import algorithms as settings
from agents.hyperparams.algorithms import EnvSettings
from agents.training.pretrain_config import PretrainConfig

ENV = "ReFiT-Synthetic-v0"
TINY = EnvSettings(
    steps=300,
    looks=2,
    pretrain=PretrainConfig(epochs=1),
    tuned={"reinforce": {"users_per_batch": 16}, "grpo": {"users_per_batch": 8, "samples_per_user": 2}},
)


def words(out: Path, *more: str) -> list[str]:
    return ["compare", "algorithms", "--env", ENV, "--seeds", "1", "--out", str(out), *more]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.SETTINGS, ENV, TINY)


def test_a_comparison_runs_goes_on_and_tells_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # PPO asks for more than the budget
        patch.setitem(
            settings.SETTINGS, ENV, replace(TINY, tuned={**TINY.tuned, "ppo": {"users_per_batch": 99}})
        )
        assert main(words(tmp_path, "--algorithms", "reinforce,ppo")) == 1
        told = capsys.readouterr()
        assert "3 cells, 0 finished already" in told.err and f"[2/3] {ENV} reinforce seed0: test" in told.err
        assert f"FAILED {ENV} ppo seed0: ValueError: one iteration takes 396" in told.err
        assert "1 of 3 cells failed" in told.err and "REINFORCE" in told.out  # the rest has its table
        assert (tmp_path / "cells" / f"{ENV}_ppo_seed0.error.txt").exists()

    assert main(words(tmp_path, "--algorithms", "reinforce,grpo")) == 0
    told = capsys.readouterr()
    assert "3 cells, 2 finished already" in told.err and f"[3/3] {ENV} grpo seed0" in told.err
    assert {path.name for path in tmp_path.iterdir()} == {"cells", "runs", "comparison.json", "curves.png"}
    report = json.loads((tmp_path / "comparison.json").read_text())
    assert [row[0] for row in report["tables"][0]["rows"]] == ["no training", "REINFORCE", "GRPO"]
    assert report["command"] == f"refit compare algorithms --env {ENV} --seeds 1 --algorithms reinforce,grpo"
    assert report["figure"] == "curves.png" and set(report["over_environments"]) == {"reinforce", "grpo"}

    monkeypatch.setattr("agents.experiments.cells._begin", None)  # nothing may run any more
    assert main(words(tmp_path, "--algorithms", "reinforce,grpo", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["environments"] == report["environments"]
    assert main(words(tmp_path, "--algorithms", "none", "--json")) == 0
    assert "figure" not in json.loads(capsys.readouterr().out)  # no curve among what was asked for

    assert main(words(tmp_path, "--algorithms", "reinforce", "--steps", "320")) == 2
    assert "steps was 300, now 320" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--algorithms", "reinforc"], "Did you mean 'reinforce'?"),
        (["--env", "ReFiT-Synthetik-v0"], "Did you mean 'ReFiT-Synthetic-v0'?"),
        (["--env", "ReFiT-Custom-v0"], "no data set of its own"),
        (["--seeds", "0"], "--seeds must be >= 1"),
        (["--steps", "0"], "--steps must be >= 1"),
        (["--workers", "0"], "--workers must be >= 1"),
    ],
)
def test_mistakes(more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path / "new", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_what_can_be_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    out: Any = capsys.readouterr().out
    assert "algorithms" in out and "sb3-ppo" in out
    assert main(["compare"]) == 2
    assert main(["compare", "algorithm"]) == 2
    assert "Did you mean 'algorithms'?" in capsys.readouterr().err
