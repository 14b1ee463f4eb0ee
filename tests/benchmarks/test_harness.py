"""Tests of the harness: alternating timing, tables, result files; and one small benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import harness

    return SimpleNamespace(**vars(harness))


def test_contestants_alternate(harness: Any) -> None:
    calls: list[str] = []
    timings = harness.in_turns({n: lambda n=n: calls.append(n) for n in "ab"}, rounds=3, min_seconds=0)
    assert calls == list("ab") * 4  # one call without timing, then the rounds
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 3, "b": 3}


def test_median_and_quartiles(harness: Any) -> None:
    timing = harness.Timing((5.0, 1.0, 2.0, 3.0, 100.0))
    assert timing.median == 3.0 and timing.quartiles == (2.0, 5.0)


def test_a_report_is_a_table_and_a_file(harness: Any, tmp_path: Path, capsys: Any) -> None:
    path = harness.report(
        "speed",
        title="Speed",
        command="python -m x",
        columns=["who", "rate"],
        rows=[["ours", "2"]],
        note="Fast.",
        folder=tmp_path / "new",
        raw=[1.5],
    )
    written = json.loads(path.read_text())
    assert path == tmp_path / "new" / "speed.json"
    assert written["table"] == {"columns": ["who", "rate"], "rows": [["ours", "2"]]}
    assert (written["title"], written["command"], written["note"]) == ("Speed", "python -m x", "Fast.")
    assert written["raw"] == [1.5] and written["provenance"]["machine"]["cores"] >= 1
    assert sum(written["provenance"]["commits"].values()) == 1 and written["provenance"]["data"] == {}
    shown = capsys.readouterr().out
    assert "Speed" in shown and "ours" in shown and "Fast." in shown


def test_cells_of_this_process_are_measured_once(harness: Any, tmp_path: Path, capsys: Any) -> None:
    from agents.experiments.records import Cell, read_records

    calls: list[int] = []

    def work(seed: int) -> dict[str, Any]:
        calls.append(seed)
        return {"value": seed}

    path = tmp_path / "mine.jsonl"
    cells = [Cell(f"mine_{seed}", work, (seed,), {"seed": seed}) for seed in range(2)]
    harness.finish_here(cells[:1], path)
    harness.finish_here(cells, path)
    assert calls == [0, 1] and capsys.readouterr().err.splitlines() == ["mine_0: 0 s", "mine_1: 0 s"]
    assert {key: found["value"] for key, found in read_records(path).items()} == {"mine_0": 0, "mine_1": 1}
    changed = [Cell("mine_0", work, (5,), {"seed": 5})]
    with pytest.raises(SystemExit, match="mine_0 is stale, seed was 0, now 5"):
        harness.finish_here(changed, path)
    harness.finish_here(changed, path, redo=True)
    assert calls == [0, 1, 5] and read_records(path)["mine_0"]["value"] == 5


def test_the_throughput_benchmark_runs(tmp_path: Path) -> None:
    words = ["--env", "ReFiT-Synthetic-v0", "--sizes", "2", "--rounds", "1", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.env_throughput", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "env_throughput.json").read_text())["table"]
    names = [row[0] for row in table["rows"]]
    assert names[0] == "bare copy" and {"native, NumPy", "native, torch", "SyncVectorEnv"} <= set(names)
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
