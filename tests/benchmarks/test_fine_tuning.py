"""The fine-tuning benchmark: its cells' files, their order, and the tables that they give."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import fine_tuning

    return SimpleNamespace(**vars(fine_tuning))


@pytest.mark.parametrize("env_id", ["ReFiT-ML1M-v0", "ReFiT-ML100K-v0", "ReFiT-Anime-v0"])
def test_the_published_table_is_what_the_published_cells_give(benchmark: Any, env_id: str) -> None:
    published = json.loads((ROOT / "benchmarks" / "results" / f"fine_tuning_{env_id}.json").read_text())
    rows = benchmark.choose_rows(",".join(published["cells"]))
    table, details = benchmark.tabulate(env_id, published["seeds"], rows)
    assert table == published["table"]["rows"]
    assert details == published["cells"]
    for cell in benchmark.plan(env_id, rows, published["seeds"]):
        assert cell.path(benchmark.CELLS).exists(), "a finished cell would be measured again"


def test_cells_wait_for_what_they_begin_from(benchmark: Any) -> None:
    cells = {cell.key: cell.needs for cell in benchmark.plan("E", benchmark.ROWS, [0])}
    assert cells["E_published_seed0"] == ()
    assert cells["E_elbo_seed0"] == ("E_published_seed0", "E_reinforce_seed0")
    assert cells["E_same-reinforce_seed0"] == ("E_same_seed0",)
    only = benchmark.plan("E", benchmark.choose_rows("elbo"), [0])  # the others are taken to be there
    assert [(cell.key, cell.needs) for cell in only] == [("E_elbo_seed0", ())]
    with pytest.raises(ValueError, match="Did you mean 'reinforce'"):
        benchmark.choose_rows("reinforc")


@pytest.mark.slow
def test_cells_are_made_and_told_apart(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from agents.comparison.cells import do_cell
    from agents.pretrain_config import PretrainConfig
    from agents.reinforce import ReinforceConfig
    from benchmarks import fine_tuning

    brief = PretrainConfig(epochs=1)
    agent = ReinforceConfig(iterations=2, users_per_batch=8)
    setting = benchmark.Setting(pretrain=brief, same=brief, agent=agent, score=agent, paper=agent)
    env_id = "ReFiT-Synthetic-v0"
    monkeypatch.setitem(fine_tuning.SETTINGS, env_id, setting)
    monkeypatch.setattr(fine_tuning, "CELLS", tmp_path / "cells")
    monkeypatch.setattr(fine_tuning, "RUNS", tmp_path / "runs")
    for cell in fine_tuning.plan(env_id, fine_tuning.ROWS, [0]):
        do_cell(cell, tmp_path / "cells")
    rows, details = fine_tuning.tabulate(env_id, [0], fine_tuning.ROWS)
    assert [row[0] for row in rows] == [row.title for row in fine_tuning.ROWS]
    assert details["same-reinforce"]["over"] == "same"
    assert {path.name for path in (tmp_path / "runs" / env_id).iterdir()} == {
        f"{row.key}-seed0" for row in fine_tuning.ROWS
    }
