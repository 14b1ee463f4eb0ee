"""Tests of the growth of costs: what is fitted, and that a cell measures all parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
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
        if users > 30_000:
            found[cell.key]["neighbours"] = 1.0
    rows, details = benchmark.tabulate(found)
    exponents = details["exponents"]
    assert exponents["iteration in items"] == pytest.approx((1.0, 1.0, 1.0))
    assert exponents["iteration in users"] == pytest.approx((0.0, 0.0, 0.0))
    assert exponents["epoch in users"][0] == pytest.approx(1.0)
    assert len(rows) == len(benchmark.plan()) and "neighbours in users" not in exponents
    del found["growth_100000_10000"]
    rows, details = benchmark.tabulate(found)
    assert len(rows) == len(benchmark.plan()) - 1 and "epoch in users" in details["exponents"]
    assert benchmark.million_rows(found) == []


def test_a_cell_measures_all_parts(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="the extra neighbors: pip install -e '.[neighbors]'")
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
    times = [small.split(name).timestamps for name in ("train", "valid", "test")]
    for user in range(small.num_users):
        mine = np.concatenate(
            [
                values[split.indptr[user] : split.indptr[user + 1]]
                for values, split in zip(times, (small.train, small.valid, small.test), strict=True)
                if values is not None
            ]
        )
        assert bool((np.diff(mine) >= 0).all())


def test_the_run_on_a_million_does_all_its_parts(benchmark: Any, monkeypatch: Any, tmp_path: Path) -> None:
    from benchmarks import million

    monkeypatch.setattr(million, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(million, "PARTS", 4)
    monkeypatch.setattr(million, "RANGES", 4)
    small = {"users_per_batch": 4, "chunks": 2, "user_parts": 4, "sampled_items": 20}
    monkeypatch.setattr(million, "CONFIG", replace(million.CONFIG, **small))
    found = {
        "million_data": million.data_cell(800, 4),
        "million_fit": million.fit_cell(3),
        "million": million.run_cell(800),
    }
    assert [cell.key for cell in million.cells()] == list(found)
    assert len(found["million"]["iterations"]) == million.CONFIG.iterations
    assert found["million"]["rows_listed"] == 20 * 64 and found["million"]["users_tested"] == 64
    assert all(len(row) == len(benchmark.MEASURED) + 1 for row in benchmark.million_rows(found))
