"""A command says so where the published tables were measured on another data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.cli import main
from agents.commands.comparing import Progress
from agents.commands.target import note_other_sets
from refit_env.data import coverage

ENV = "ReFiT-Synthetic-v0"
LINE = "The published tables were measured on another synthetic: 800 users, 400 items"


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published tables are of another synthetic set."""
    entry = replace(coverage.measured()["synthetic"], fingerprint="0" * 64)
    monkeypatch.setattr(coverage, "measured", lambda: {"synthetic": entry})


def test_the_same_data_need_no_word(pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--run", str(pretrained)]) == 0
    assert "published tables" not in capsys.readouterr().err
    note_other_sets([ENV, "ReFiT-Custom-v0"])
    assert not capsys.readouterr().err


@pytest.mark.usefixtures("other")
def test_evaluate(pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--json"]):
        assert main(["evaluate", "--run", str(pretrained), *more]) == 0
        output = capsys.readouterr()
        assert output.err.count(LINE) == 1 and len(output.err.splitlines()) == 1 and LINE not in output.out


@pytest.mark.usefixtures("other")
def test_finetune(pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "finetune",
        "--env",
        ENV,
        "--init",
        str(pretrained),
        "--out",
        str(tmp_path / "run"),
        "--iterations",
    ]
    assert main([*words, "1", "--users-per-batch", "4", "--device", "cpu"]) == 0
    assert LINE in capsys.readouterr().err


@pytest.mark.usefixtures("other")
def test_comparisons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Progress, "run", lambda *_: {})
    for name in ("algorithms", "backbones"):
        main(["compare", name, "--env", ENV, "--seeds", "1", "--out", str(tmp_path / name)])
        assert capsys.readouterr().err.count(LINE) == 1
