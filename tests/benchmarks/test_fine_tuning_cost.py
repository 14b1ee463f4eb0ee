"""Tests of the cost of fine-tuning: the published table follows from the published cells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.experiments.records import read_records

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import fine_tuning_cost

    return SimpleNamespace(**vars(fine_tuning_cost))


def test_the_published_table_follows_from_the_published_cells(
    benchmark: Any, assert_alike: Callable[[Any, Any], None]
) -> None:
    published = json.loads((ROOT / "benchmarks" / "results" / "fine_tuning_cost.json").read_text())
    records = read_records(benchmark.CELLS)
    found = {cell.key: records[cell.key] for cell in benchmark.plan()}
    rows, details = benchmark.tabulate(found)
    assert rows == published["table"]["rows"]
    assert_alike(details, {name: published[name] for name in details})


def test_ratios(benchmark: Any) -> None:
    found = {cell.key: {"mib": 100.0, "seconds": []} for cell in benchmark.plan()}
    found["memory_cf-diff_fine-tuning-recompute"]["mib"] = 90.0
    rows, details = benchmark.tabulate(found)
    assert [row[1:] for row in rows if row[0] == "ML-1M, cf-diff (small), fine-tuning, recompute"] == [
        ["90", "-10.0", ""]
    ]
    assert details["memory_over_pretraining"]["cf-diff, fine-tuning, recompute"] == 0.9
