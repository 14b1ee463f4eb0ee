from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import processes
from benchmarks.processes import main, row


def test_efficiency_is_that_over_the_fewest_processes() -> None:
    found = {1: {"clock": 100.0, "processor": 90.0}, 2: {"clock": 62.5, "processor": 108.0}}
    assert row("pretraining", 2, found) == ["pretraining, 2", "62.5", "108.0", "1.60", "0.80", "1.20"]
    assert row("pretraining", 1, found)[3:] == ["1.00", "1.00", "1.00"]


def test_numbers_of_processes_are_measured_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(kind: str, count: int, data_name: str, updates: int) -> dict[str, float]:
        measured.append((kind, count))
        return {"clock": 10.0 / count, "processor": 10.0 + len(measured)}

    monkeypatch.setattr(processes, "measure", measure)
    monkeypatch.setattr(processes, "load_or_generate", lambda name: (None, name))
    main(["--rounds", "2", "--out", str(tmp_path)])
    assert measured == [(kind, count) for kind in processes.KINDS for count in (1, 2)] * 2
    result: dict[str, Any] = json.loads((tmp_path / "processes.json").read_text())
    assert [cells[0] for cells in result["table"]["rows"]] == [
        f"{kind}, {count}" for kind in processes.KINDS for count in (1, 2)
    ]
    assert [cells[4] for cells in result["table"]["rows"]] == ["1.00"] * 4
    assert len(result["times"]["pretraining"]["2"]) == 2


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "load_or_generate", lambda name: (None, name))
    monkeypatch.setattr(processes, "measure", lambda *_: {"clock": 10.0, "processor": 10.0})
    words = ["--records", str(tmp_path / "cells.jsonl"), "--out", str(tmp_path), "--rounds"]
    main([*words, "1"])
    assert len((tmp_path / "cells.jsonl").read_text().splitlines()) == 4
    monkeypatch.setattr(processes, "measure", lambda *_: {"clock": 20.0, "processor": 20.0})
    main([*words, "2"])
    result: dict[str, Any] = json.loads((tmp_path / "processes.json").read_text())
    assert result["table"]["rows"][1][1] == "15.0" and len(result["times"]["fine-tuning"]["1"]) == 2


@pytest.mark.parametrize("kind", processes.KINDS)
def test_an_update_of_each_kind(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--work", kind, "--data", "synthetic", "--updates", "1"])
    assert min(json.loads(capsys.readouterr().out).values()) > 0
