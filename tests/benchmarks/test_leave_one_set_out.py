"""Cells are measured once, and a data set has no part in the choice of its own rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import leave_one_set_out as study
from refit_env.data import save_dataset, synthesize


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tiny data sets by time, all of whose cells are measured in three calls."""
    monkeypatch.setattr(study, "ROWS", 512)
    monkeypatch.setattr(study, "MOST", 1)
    monkeypatch.setattr(study, "CLOSED_FORM_TRIALS", 2)
    monkeypatch.setattr(study, "floor_names", lambda dataset: ["popularity", "ease"])
    folders = [str(tmp_path / name) for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        save_dataset(synthesize(seed=seed, num_users=40, num_items=30, num_clusters=2), folder)
    out = tmp_path / "cells"
    assert not study.run(folders, out, seconds=-1.0)  # no time for a cell
    assert study.run(folders[:1], out, seconds=600.0)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert study.run(folders, out, seconds=600.0)
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())  # not measured again
    assert len(list(out.iterdir())) == 2 * len(before) == 2 * (2 + 2 + 4)
    return out


def test_the_table_names_the_rule_and_the_best_baseline(
    measured: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written: dict[str, Any] = {}
    monkeypatch.setattr(study, "report", lambda name, **given: written.update(given))
    study.table(measured, "command")
    assert [row[0] for row in written["rows"]] == ["first, by time", "second, by time"]
    for row in written["sets"]:
        floor = [
            json.loads(path.read_text("utf-8")) for path in measured.glob(f"{row['data']}-time.baseline.*")
        ]
        best = max(floor, key=lambda cell: cell["means"]["valid"])
        assert len(floor) == 2 and row["baseline"]["name"] == best["name"]
        others = [path for path in measured.iterdir() if not path.name.startswith(row["data"])]
        tuned = [json.loads(path.read_text("utf-8")) for path in others]
        assert row["rule"] in {cell["cell"] for cell in tuned if "env" in cell} | {None}


def test_a_set_does_not_choose_its_own_rule() -> None:
    gains = {name: {"x": 0.02, "y": 0.01} for name in "abc"}
    assert study.chosen_by_others(gains, "a") == "x"
    assert study.chosen_by_others({**gains, "a": {"x": -9.0, "y": 9.0}}, "a") == "x"
    assert study.chosen_by_others({**gains, "b": {"x": -9.0, "y": 0.01}}, "a") == "y"
    assert study.chosen_by_others({"a": gains["a"]}, "a") is None
