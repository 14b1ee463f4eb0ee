"""A disk that is full, or that cannot be written: one line, exit code 2, the last state whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agents.cli import main
from refit_env.checkpoint import load_checkpoint, load_state

PRETRAIN = [
    "pretrain", "--env", "ReFiT-Synthetic-v0", "--epochs", "4", "--eval-every", "1",
    "--users-per-batch", "400", "--backbone-options", "hidden=[8]", "--quiet", "--device", "cpu",
]  # fmt: skip


def test_a_disk_that_is_full_for_a_while_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*PRETRAIN, "--out", str(whole)]) == 0
    replace, written = os.replace, 0

    def full(source: str, target: str) -> None:
        nonlocal written
        written += Path(target).name == "pretrain.safetensors"
        if written == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert main([*PRETRAIN, "--out", str(broken)]) == 2
    err = capsys.readouterr().err
    file = broken / "pretrain.safetensors"
    assert err == f"refit: error: {file}: No space left on device; free some space\n"
    assert load_state(broken / "pretrain")[1]["epoch"] == 2
    assert not [path for path in broken.iterdir() if path.name.startswith(".")]
    assert main([*PRETRAIN, "--out", str(broken), "--resume"]) == 0
    one, other = load_checkpoint(whole)[0], load_checkpoint(broken)[0]
    assert all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_folder_that_cannot_be_written(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, *arguments: object, **settings: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    for words in (PRETRAIN, ["data", "synthesize", "--users", "30"]):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", refuse)
            assert main([*words, "--out", str(tmp_path / "new")]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and os.strerror(code) in err and str(tmp_path) in err
        assert not list(tmp_path.iterdir())
