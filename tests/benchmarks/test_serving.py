from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import serving
from benchmarks.serving import Cell, best, main, read

TIMES = {"p50": 1.0, "p95": 2.0, "p99": 3.0}
CELL = Cell("run", "linear on shop", 1, 0.5, 10, {}, 20.0, TIMES, TIMES, TIMES, TIMES, 2.0, 0.1)


def test_the_best_repeat_of_each_cell_is_shown() -> None:
    slower = replace(CELL, latency={**TIMES, "p99": 9.0})
    other = replace(CELL, clients=8)
    assert best([slower, other, CELL, slower]) == [CELL, other]


def test_measured_cells_are_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = []

    @contextmanager
    def service(run: Path, threads: int) -> Iterator[tuple[int, int, str]]:
        yield 1, 2, run.name

    def measure(run: Path, started: Any, clients: int, seconds: float, seed: int) -> Cell:
        measured.append((run.name, clients))
        return replace(CELL, run=run.name, clients=clients)

    monkeypatch.setattr(serving, "measure", measure)
    monkeypatch.setattr(serving, "service", service)
    records = tmp_path / "cells.jsonl"
    records.write_text(json.dumps(asdict(replace(CELL, run="one"))) + "\n")
    words = ["one", "two", "--clients", "1", "8", "--records", str(records), "--out", str(tmp_path)]
    main(words)
    assert measured == [("one", 8), ("two", 1), ("two", 8)]
    assert [(cell.run, cell.clients) for cell in read(records)] == [("one", 1), *measured]
    main(words)
    assert len(measured) == 3
    main([*words, "--repeats", "2", "--seconds", "5", "--budget", "1"])
    assert len(measured) == 3 and "4 cells are missing" in capsys.readouterr().out
    result = json.loads((tmp_path / "serving.json").read_text())
    assert [row[0] for row in result["table"]["rows"]] == [f"linear on shop, {n}" for n in (1, 8, 1, 8)]


@pytest.mark.slow
def test_clients_measure_a_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("uvicorn", reason="the extra serve: pip install -e '.[serve]'")
    import refit_env
    from refit_env.data import load_dataset

    run = tmp_path / "run"
    refit_env.load_policy("ReFiT-Synthetic-v0", num_steps=1).save(run, load_dataset("synthetic"))
    (run / "config.json").write_text(json.dumps({"command": "pretrain", "env": "ReFiT-Synthetic-v0"}))
    (run / "metrics.json").write_text("{}")
    main([str(run), "--clients", "1", "3", "--seconds", "0.5", "--out", str(tmp_path)])
    cells: list[dict[str, Any]] = json.loads((tmp_path / "serving.json").read_text())["cells"]
    for cell in cells:
        assert cell["errors"] == {} and cell["requests"] > 3
        assert 0 < cell["model_time"]["p50"] < cell["latency"]["p50"] and cell["rest"]["p50"] > 0
