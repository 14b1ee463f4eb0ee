"""Tests of the model of costs: what it counts, and how it grows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def projection(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import projection

    return projection


def test_costs_grow_with_items_and_batch_and_not_with_users(projection: Any) -> None:
    size = projection.Size(1e3, 1e4, 8, 16, 2, 10)
    rates = projection.Rates(1e9, 1e9, 1e9, 1e9)
    base = projection.seconds(size, rates)
    assert projection.seconds(replace(size, users=1e9), rates) == base
    assert projection.seconds(replace(size, items=2e4), rates) == pytest.approx(2 * base)
    assert base < projection.seconds(replace(size, batch=32), rates) < 2 * base  # the weights stay
    assert projection.list_seconds(replace(size, items=2e4), rates) == pytest.approx(
        2 * projection.list_seconds(size, rates)
    )
    assert size.weights == 2 * 8 * 1e4
    assert size.bytes_of()["weights in training"] == 6 * 4 * size.weights


def test_a_rate_that_doubles_halves_its_part(projection: Any) -> None:
    size = projection.Size(1e3, 1e4, 8, 16, 2, 10)
    slow = projection.Rates(*[1e9] * 4)
    parts = [
        projection.seconds(size, slow) - projection.seconds(size, replace(slow, **{name: 2e9}))
        for name in ("products", "traffic", "normals", "ranked")
    ]
    assert sum(parts) == pytest.approx(projection.seconds(size, slow) / 2)
    assert all(part > 0 for part in parts)


def test_rates_are_measured_and_only_the_run_has_measured_seconds(projection: Any) -> None:
    threads = torch.get_num_threads()
    rates = projection.measured_rates(rank=4, items=2_000)
    torch.set_num_threads(threads)
    assert all(rate > 0 for rate in vars(rates).values())
    rows = projection.rows_of(rates, 1.5)
    assert [row[6] for row in rows] == ["1.5", "not run", "not run"] and rows[0][5] == "1.5"
    assert projection.rows_of(rates, None)[0][6] == "not run"
