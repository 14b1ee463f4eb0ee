"""Cells of a study on a Ray cluster of two workers: the records that processes of this machine write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from agents.cli import main
from agents.experiments.cells import run_cells
from agents.experiments.ray_cells import ray_tasks
from agents.experiments.records import Cell, read_records
from tests.tiny_study import STUDY

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own are many


@pytest.fixture(autouse=True)
def installed(need: Callable[[str, str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray, which does not make an environment of its own for workers."""
    assert need("ray", "ray") is not None
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


def test_cells_fail_alone_wait_for_their_needs_and_have_one_thread(tmp_path: Path) -> None:
    records = tmp_path / "cells.jsonl"
    first = f"{{'value': len(__import__('pathlib').Path({str(records)!r}).read_text())}}"
    cells = [
        Cell("first", json.loads, ('{"value": 7}',)),
        Cell("broken", json.loads, ("{",)),
        Cell("second", eval, (first,), needs=("first",)),
        Cell("lost", json.loads, ('{"value": 1}',), needs=("broken",)),
        Cell("killed", eval, ("__import__('os')._exit(3)",)),
        Cell("threads", eval, ("{'value': __import__('os').environ['OMP_NUM_THREADS']}",)),
    ]
    with ray_tasks(2) as engine:
        failed = run_cells(cells, records, workers=2, engine=engine)
    found = read_records(records)
    assert found["first"]["value"] == 7 and found["second"]["value"] > 0 and found["threads"]["value"] == "1"
    assert set(failed) == {"broken", "lost", "killed"}
    assert "JSONDecodeError" in failed["broken"] and failed["lost"] == "needs broken, which failed"
    assert "Crashed" in failed["killed"] or "died" in failed["killed"]
    assert "Traceback" in cells[1].error_path(records).read_text()


def test_a_study_has_the_records_of_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # workers must find a folder that was named from here
    (tmp_path / "tiny.yml").write_text(STUDY)
    words = ["compare", "tiny.yml", "--workers", "2", "--json"]
    assert main([*words, "--out", "one"]) == 0
    assert main([*words, "--out", "ray", "--engine", "ray"]) == 0
    one, ray = (read_records(tmp_path / name / "tiny.jsonl") for name in ("one", "ray"))
    assert len(one) == 4 and one.keys() == ray.keys()
    for key, record in one.items():
        assert ray[key]["settings"] == record["settings"]
        assert ray[key]["test"] == pytest.approx(record["test"], rel=1e-5)
