"""Tests of the comparison with ``torch.compile``: all contestants compute the same gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import compiled
from benchmarks.workloads import large_dataset


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "load_or_generate", lambda name: (large_dataset(200, 60, 20), name))


def test_the_table_has_every_contestant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[Any] = []

    def compile(chain: Any, **settings: Any) -> Any:
        modes.append(settings["mode"])
        return chain

    monkeypatch.setattr(torch, "compile", compile)
    compiled.main(["--rounds", "1", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "compiled.json").read_text())["table"]["rows"]
    assert [row[0] for row in rows] == ["this project", "plain PyTorch", *compiled.MODES]
    assert [bool(row[3]) for row in rows] == [False, False, True, True]
    assert modes == list(compiled.MODES.values())


def test_a_contestant_with_other_gradients_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda chain, **settings: lambda u: 2 * chain(u))
    with pytest.raises(ValueError, match="compiled: the gradients differ"):
        compiled.main(["--rounds", "1", "--out", str(tmp_path)])
