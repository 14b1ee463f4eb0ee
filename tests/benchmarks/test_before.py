"""Tests of the comparison with an earlier commit: both are measured by their own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import before
from benchmarks.counting import GROUPS, OTHERS
from benchmarks.workloads import large_dataset

PROFILE = dict.fromkeys([*GROUPS, OTHERS], 0.25)


def test_the_iteration_and_its_products_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(before, "load_or_generate", lambda name: (large_dataset(90, 60, 20), name))
    monkeypatch.setattr(before, "UPDATES", 1)
    found = before.measure("tiny", rounds=1)
    assert 0 < found["products"] and 0 < found["iteration"] and found["operations"] > 0
    assert set(found["profile"]) == set(PROFILE)


def test_the_table_has_both_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"before": 0.3, "today": 0.2}
    folders: list[Path] = []

    def run_in(folder: Path, name: str, rounds: int) -> dict[str, Any]:
        folders.append(folder)
        when = "today" if folder == before.ROOT else "before"
        numbers = {"products": 0.2, "operations": 4e9, "moved": 1e9, "label": name, "profile": PROFILE}
        return numbers | {"iteration": seconds[when]}

    monkeypatch.setattr(before, "run_in", run_in)
    monkeypatch.setattr(before, "code_of", lambda commit, folder: None)
    before.main(["--data", "ml-1m", "--commit", "abc", "--out", str(tmp_path)])
    stored = json.loads((tmp_path / "before.json").read_text())
    assert [row[:4] for row in stored["table"]["rows"]] == [
        ["ml-1m", "before", "300.0", "1.50"],
        ["ml-1m", "today", "200.0", "1.00"],
    ]
    assert stored["commit"] == "abc" and folders[1] == before.ROOT


def test_a_process_that_fails_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").write_text("")
    (tmp_path / "benchmarks" / "before.py").write_text("raise ValueError('no such code')")
    with pytest.raises(SystemExit, match="ValueError: no such code"):
        before.run_in(tmp_path, "ml-1m", 1)
