"""Tests of the growth of costs: what is fitted, and that a cell measures all parts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import scaling

    return SimpleNamespace(**vars(scaling))


def test_exponents_are_fitted_to_the_sizes_of_each_axis(benchmark: Any) -> None:
    found: dict[str, dict[str, Any]] = {}
    for cell in benchmark.plan():
        users, items = cell.arguments
        found[cell.key] = {"iteration": items / 1000.0, "epoch": users * items / 1e6, "memory": 500.0}
        if users > 10_000:
            found[cell.key]["neighbours"] = 1.0
    million = {"pretraining_batch": 1.0, "setup": 2.0, "evaluation_32": 3.0}
    found["million"] |= million
    rows, details = benchmark.tabulate(found)
    exponents = details["exponents"]
    assert exponents["iteration in items"] == pytest.approx((1.0, 1.0, 1.0))
    assert exponents["iteration in users"] == pytest.approx((0.0, 0.0, 0.0))
    assert exponents["epoch in users"][0] == pytest.approx(1.0)
    assert len(rows) == len(benchmark.plan()) and "neighbours in users" not in exponents


def test_a_cell_measures_all_parts(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    from benchmarks import scaling

    monkeypatch.setattr(scaling, "HIDDEN", (8,))
    got = scaling.growth_cell(900, 100)
    assert set(got) == set(benchmark.MEASURED)
    assert all(value > 0 for value in got.values())


def test_a_large_data_set_has_its_size_and_constant_activity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.workloads import large_dataset

    small, large = large_dataset(200, 500, 20), large_dataset(2000, 5000, 20)
    assert (large.num_users, large.num_items, large.time_ordered) == (2000, 5000, True)
    per_user = [len(data.train) / data.num_users for data in (small, large)]
    assert per_user[0] == pytest.approx(per_user[1], rel=0.3)
    assert large_dataset(200, 500, 20).fingerprint == small.fingerprint
