from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.experiments.records import append_record, read_cell
from benchmarks import processes
from benchmarks.processes import main, row
from refit_env.settings import plain


def test_efficiency_is_that_over_the_fewest_processes() -> None:
    found = {1: {"clock": 100.0, "processor": 90.0}, 2: {"clock": 62.5, "processor": 108.0}}
    assert row("pretraining", 2, found) == ["pretraining, 2", "62.5", "108.0", "1.60", "0.80", "1.20"]
    assert row("pretraining", 1, found)[3:] == ["1.00", "1.00", "1.00"]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The updates that were measured, in place of measuring them; the n-th one took 10 ms and n ms."""
    out: list[tuple[str, int]] = []

    def finish(cells: Any, path: Path, *, redo: bool) -> None:
        for cell in cells:
            if read_cell(path, cell) is None:
                kind, count, *_ = cell.arguments
                out.append((kind, count))
                found = {"clock": 10.0 / count, "processor": 10.0 + len(out), "load": 0.5}
                append_record(path, {"key": cell.key, "settings": plain(cell.settings), **found})

    monkeypatch.setattr(processes, "finish_cells", finish)
    monkeypatch.setattr(processes, "load_or_generate", lambda name: (None, name))
    return out


def test_numbers_of_processes_are_measured_in_turns(tmp_path: Path, measured: list[tuple[str, int]]) -> None:
    main(["--rounds", "2", "--out", str(tmp_path)])
    assert measured == [(kind, count) for kind in processes.KINDS for count in (1, 2)] * 2
    result: dict[str, Any] = json.loads((tmp_path / "processes.json").read_text())
    assert [cells[0] for cells in result["table"]["rows"]] == [
        f"{kind}, {count}" for kind in processes.KINDS for count in (1, 2)
    ]
    assert [cells[4] for cells in result["table"]["rows"]] == ["1.00"] * 4
    assert len(result["times"]["pretraining"]["2"]) == 2


def test_what_was_measured_is_not_measured_again(tmp_path: Path, measured: list[tuple[str, int]]) -> None:
    main(["--rounds", "1", "--out", str(tmp_path)])
    assert len((tmp_path / "processes.jsonl").read_text().splitlines()) == 4 == len(measured)
    main(["--rounds", "2", "--out", str(tmp_path)])
    assert len(measured) == 8, "the first round is kept"
    result: dict[str, Any] = json.loads((tmp_path / "processes.json").read_text())
    assert result["table"]["rows"][0][2] == "13.0", "the median of 11 and 15 ms"


@pytest.mark.parametrize("kind", processes.KINDS)
def test_an_update_of_each_kind(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--work", kind, "--data", "synthetic", "--updates", "1"])
    assert min(json.loads(capsys.readouterr().out).values()) > 0
