"""Tests of the table of settings for large data sets: what its rows are, and that a cell measures one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refit_env.data import synthesize

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def levers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import levers

    return levers


def test_rows_compare_each_setting_with_the_unchanged_agent_of_its_seed(levers: Any) -> None:
    found = {
        cell.key: {"iteration": 2.0, "total": 4.0, "ndcg@20": 0.1 + 0.1 * cell.arguments[1]}
        for cell in levers.plan()
        if cell.arguments
    }
    for seed in range(levers.SEEDS):
        found[f"draw_users=bands, seed {seed}"] = {"iteration": 1.0, "total": 4.0, "ndcg@20": 0.3}
    rows = {row[0]: row[1:] for row in levers.tabulate(found)}
    assert rows["unchanged"] == ["1.00", "1.00", "0.1500", "+0.0000 +0.0000", ""]
    assert rows["draw_users=bands"] == ["0.50", "1.00", "0.3000", "+0.2000 +0.1000", ""]
    del found["unchanged, seed 1"], found["precision=bf16, seed 0"]
    rows = {row[0]: row[1:] for row in levers.tabulate(found)}
    assert rows["draw_users=bands"] == ["0.50", "1.00", "0.3000", "+0.2000", ""]
    assert "precision=bf16" not in rows, "no seed of it and of the unchanged agent is finished"


@pytest.mark.parametrize(
    "name", ["half the steps, eta=0 (straight line)", "racs neighbor_lists, lists_ttl=10"]
)
def test_a_cell_trains_with_its_setting(
    levers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    data = synthesize(num_users=150, num_items=60)
    monkeypatch.setattr(levers, "folder", lambda: tmp_path)
    monkeypatch.setattr(levers, "load_dataset", lambda _: data)
    monkeypatch.setattr(levers, "DATA", data)
    monkeypatch.setattr(levers, "EPOCHS", 1)
    monkeypatch.setattr(levers, "ITERATIONS", 3)
    monkeypatch.setattr(levers, "CONFIG", levers.replace(levers.CONFIG, iterations=3, eval_every=3))
    assert levers.start_cell()["ndcg@20"] > 0
    found = levers.lever_cell(name, 0)
    assert ("cache_hits" in found) == ("ttl" in name)
    assert found["ndcg@20"] > 0 and found["iteration"] > 0
