"""The fine-tuning benchmark: its cells' files, their order, and the tables that they give."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.algorithms.configs import ReinforceConfig
from agents.experiments.cells import do_cell
from agents.experiments.records import plain
from agents.training.pretrain_config import PretrainConfig

SYNTHETIC = "ReFiT-Synthetic-v0"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import fine_tuning

    return SimpleNamespace(**vars(fine_tuning))


@pytest.mark.parametrize("env_id", ["ReFiT-ML1M-v0", "ReFiT-ML100K-v0", "ReFiT-Anime-v0"])
def test_the_published_table_is_what_the_published_cells_give(
    benchmark: Any, env_id: str, assert_alike: Callable[[Any, Any], None]
) -> None:
    published = json.loads((ROOT / "benchmarks" / "results" / f"fine_tuning_{env_id}.json").read_text())
    rows = benchmark.choose_rows(",".join(published["cells"]))
    table, details = benchmark.tabulate(env_id, published["seeds"], rows)
    assert table == published["table"]["rows"]
    assert_alike(details, published["cells"])
    for cell in benchmark.plan(env_id, rows, published["seeds"]):
        assert cell.path(benchmark.CELLS).exists(), "a finished cell would be measured again"


def test_cells_wait_for_what_they_begin_from(benchmark: Any) -> None:
    name = "{}_{}_seed0".format
    cells = {cell.key: cell.needs for cell in benchmark.plan(SYNTHETIC, benchmark.ROWS, [0])}
    assert cells[name(SYNTHETIC, "published")] == ()
    assert cells[name(SYNTHETIC, "elbo")] == tuple(name(SYNTHETIC, r) for r in ("published", "reinforce"))
    assert cells[name(SYNTHETIC, "same-reinforce")] == (name(SYNTHETIC, "same"),)


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ("reinforce", ["published", "reinforce"]),
        ("elbo", ["published", "reinforce", "elbo"]),
        ("same-reinforce", ["published", "same", "same-reinforce"]),
    ],
)
def test_what_a_row_needs_is_made_with_it(benchmark: Any, asked: str, made: list[str]) -> None:
    assert [row.key for row in benchmark.choose_rows(asked)] == made
    with pytest.raises(ValueError, match="Did you mean 'reinforce'"):
        benchmark.choose_rows("reinforc")


def test_cells_depend_on_their_own_settings_and_those_that_they_begin_from(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import fine_tuning

    def settings(**changes: Any) -> dict[str, Any]:
        monkeypatch.setitem(fine_tuning.SETTINGS, SYNTHETIC, replace(benchmark.Setting(), **changes))
        return {cell.key.split("_")[1]: plain(cell.settings) for cell in plan()}

    def plan() -> list[Any]:
        cells: list[Any] = fine_tuning.plan(SYNTHETIC, fine_tuning.ROWS, [0])
        return cells

    def changed(**changes: Any) -> set[str]:
        before, after = settings(), settings(**changes)
        return {name for name in before if before[name] != after[name]}

    everything = {row.key for row in fine_tuning.ROWS}
    assert changed(pretrain=PretrainConfig(epochs=7)) == everything
    assert changed(same=PretrainConfig(epochs=7)) == {"same", "same-reinforce", "elbo"}
    assert changed(agent=ReinforceConfig(iterations=7)) == {"reinforce", "same-reinforce", "elbo"}
    assert changed(paper=ReinforceConfig(iterations=7)) == {"paper"}
    assert changed(relevance="holdout") == everything - {"published"}
    assert all(cell.data == "synthetic" for cell in plan())
    assert {cell.key.split("_")[1] for cell in plan() if cell.leaves} == {"published", "same"}


@pytest.mark.slow
def test_cells_are_made_and_told_apart(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import fine_tuning

    brief = PretrainConfig(epochs=1)
    agent = ReinforceConfig(iterations=2, users_per_batch=8)
    setting = benchmark.Setting(pretrain=brief, same=brief, agent=agent, score=agent, paper=agent)
    env_id = SYNTHETIC
    monkeypatch.setitem(fine_tuning.SETTINGS, env_id, setting)
    monkeypatch.setattr(fine_tuning, "CELLS", tmp_path / "cells")
    monkeypatch.setattr(fine_tuning, "RUNS", tmp_path / "runs")
    for cell in fine_tuning.plan(env_id, fine_tuning.ROWS, [0]):
        do_cell(cell, tmp_path / "cells")
    rows, details = fine_tuning.tabulate(env_id, [0], fine_tuning.ROWS)
    titles = [row.title for row in fine_tuning.ROWS]
    assert [row[0] for row in rows] == [t + ", same work" if t == "+ more ELBO" else t for t in titles]
    assert rows[1][5] == f"{details['reinforce']['work'] / 1000:.0f}" and rows[1][3].endswith("± -")
    elbo = json.loads((tmp_path / "cells" / f"{env_id}_elbo_seed0.json").read_text())
    reinforce = json.loads((tmp_path / "cells" / f"{env_id}_reinforce_seed0.json").read_text())
    assert elbo["budget"] == {"unit": "work", "amount": reinforce["cost"]["work"]["units"]}
    assert 0 <= elbo["cost"]["work"]["units"] - elbo["budget"]["amount"] < brief.users_per_batch
    assert elbo["provenance"]["data"]["name"] == "synthetic"
    assert elbo["settings"]["pretrain"]["epochs"] == 1
    assert "older records" not in fine_tuning.note(details, 1) and "'same work'" in fine_tuning.note(
        details, 1
    )
    assert details["same-reinforce"]["over"] == "same"
    assert {path.name for path in (tmp_path / "runs" / env_id).iterdir()} == {
        f"{row.key}-seed0" for row in fine_tuning.ROWS
    }
