"""The search's cells, its choice and its table; a whole search of the smallest environment."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.experiments.cells import do_cell
from agents.experiments.records import plain
from refit_env.utils.atomic_io import write_json

ROOT = Path(__file__).resolve().parents[2]
SYNTHETIC = "ReFiT-Synthetic-v0"


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import search_finetuning

    return search_finetuning


def small_grid(search: Any) -> Any:
    brief = {"epochs": 1, "patience": 0}
    variants = {
        "a": search.Variant({"iterations": 1}, starts=("one", "two")),
        "b": search.Variant({"iterations": 2, "learning_rate": 1e-3}, {"reward": "ndcg"}, starts=("two",)),
    }
    return search.Grid({"one": search.Start(brief), "two": search.Start(brief, {"hidden": [16]})}, variants)


def test_a_variant_is_tried_on_its_starts_and_waits_for_them(search: Any) -> None:
    cells = {cell.key: cell.needs for cell in search.plan(SYNTHETIC, small_grid(search))}
    one, two = f"{SYNTHETIC}_start-one", f"{SYNTHETIC}_start-two"
    assert cells == {
        one: (),
        f"{SYNTHETIC}_one_a": (one,),
        two: (),
        f"{SYNTHETIC}_two_a": (two,),
        f"{SYNTHETIC}_two_b": (two,),
    }


def test_trying_a_variant_elsewhere_too_leaves_its_cells_valid(search: Any) -> None:
    before = {cell.key: cell.settings for cell in search.plan(SYNTHETIC, small_grid(search))}
    grid = small_grid(search)
    grid.variants["b"] = search.Variant(grid.variants["b"].agent, {"reward": "ndcg"}, starts=("one", "two"))
    after = {cell.key: cell.settings for cell in search.plan(SYNTHETIC, grid)}
    assert before.items() <= after.items()
    assert set(after) - set(before) == {f"{SYNTHETIC}_one_b"}


def test_grids_build_the_settings_that_they_name(search: Any) -> None:
    from agents.training.pretrain_config import PretrainConfig

    for env_id, grid in search.GRIDS.items():
        assert search.plan(env_id, grid)
        for start in grid.starts.values():
            PretrainConfig(**start.training)
        for variant in grid.variants.values():
            search.agent_config(variant)
            assert set(variant.starts) <= set(grid.starts), f"{env_id}: {variant} has an unknown start"


def test_grids_can_be_cut_by_name(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(search.GRIDS, "E", small_grid(search))
    cut = search.choose_grid("E", "two", "b")
    assert [cell.key for cell in search.plan(SYNTHETIC, cut)] == [
        f"{SYNTHETIC}_start-two", f"{SYNTHETIC}_two_b",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="Known: one, two"):
        search.choose_grid("E", "three")
    with pytest.raises(ValueError, match="unknown grid"):
        search.choose_grid("F")


def test_the_choice_prefers_less_work_only_among_the_good(search: Any) -> None:
    long, short, weak = (
        search.Trial("s", "long", 0.20, 90.0),
        search.Trial("s", "short", 0.185, 30.0),  # above nine tenths of the best
        search.Trial("s", "weak", 0.17, 1.0),
    )
    assert search.choose([long, short, weak]) == short
    assert search.choose([long, short, weak], keep=1.0) == long
    assert search.choose([search.Trial("s", "none", 0.0, 1.0)]) is None
    assert search.choose([]) is None


def test_the_table_tells_gains_and_leaves_out_what_has_not_run(search: Any, tmp_path: Path) -> None:
    grid = small_grid(search)
    write_json(
        tmp_path / "E_start-two.json", {"valid": {"ndcg@20": 0.1}, "epoch": 3, "seconds": 12.0, "curve": []}
    )
    cell = {"before": {"ndcg@20": 0.1}, "after": {"ndcg@20": 0.12}, "iteration": 40, "seconds": 30.0}
    cell |= {"paired_bootstrap": {"low": 0.01, "high": 0.03}, "config": {"iterations": 2}, "env_kwargs": {}}
    cell |= {"cost": {"work": {"units": 96.0}}}
    write_json(tmp_path / "E_two_b.json", cell)
    rows, chosen = search.tabulate("E", grid, tmp_path)
    assert rows == [
        ["two", "0.1000", "", "", "3", "12"],
        ["  b", "0.1200", "+20.0%", "+0.0100 to +0.0300", "40", "30"],
    ]
    assert chosen["two"] == {
        "variant": "b", "gain": 0.2, "work": 96.0, "agent": {"iterations": 2}, "env_kwargs": {},
    }  # fmt: skip


def test_a_table_has_no_stale_cells(search: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variant that this run does not name, made with other settings, ends the command with its name."""
    grid = small_grid(search)
    for cell in search.plan(SYNTHETIC, grid):
        write_json(cell.path(tmp_path), {"settings": plain(dict(cell.settings))})
    write_json(tmp_path / f"{SYNTHETIC}_two_b.json", {"settings": {"seed": 1}})
    monkeypatch.setitem(search.GRIDS, SYNTHETIC, grid)
    monkeypatch.setattr(search, "CELLS", tmp_path)
    monkeypatch.setattr(search, "run_cells", lambda *args, **kwargs: {})
    monkeypatch.setattr("agents.experiments.records._other_data", lambda old, name: [])
    monkeypatch.setattr("sys.argv", ["search", "--env", SYNTHETIC, "--variants", "a"])
    with pytest.raises(SystemExit, match=r"two_b\.json: stale"):
        search.main()


def test_a_search_runs_on_validation_alone(
    search: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looked: list[str] = []
    evaluate = search.evaluate

    def watched(score: Any, data: Any, split: str, users: Any = None) -> Any:
        looked.append(split)
        return evaluate(score, data, split, users=users)

    monkeypatch.setattr(search, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(search, "evaluate", watched)
    for cell in search.plan(SYNTHETIC, small_grid(search)):
        do_cell(cell, tmp_path)
    assert set(looked) == {"valid"}
    rows, _ = search.tabulate(SYNTHETIC, small_grid(search), tmp_path)
    assert [row[0] for row in rows] == ["one", "  a", "two", "  a", "  b"]


def test_embeddings_are_judged_by_the_start(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}

    def stop(name: str, policy: Any, env_id: str, config: Any, env_kwargs: Any, seed: int) -> None:
        told.update(env_kwargs)
        raise InterruptedError

    policy = SimpleNamespace(backbone=SimpleNamespace(embedding=True), scorer=lambda data: None)
    monkeypatch.setattr(search.DiffusionPolicy, "load", lambda folder: policy)
    monkeypatch.setattr(search, "data_of", lambda env_id: None)
    monkeypatch.setattr(search, "evaluate", lambda *_, **__: None)
    monkeypatch.setattr(search, "fine_tuned", stop)
    with pytest.raises(InterruptedError):
        search.run_variant("ReFiT-Zhihu-v0", "published", search.Variant({}, {"reward": "log_rank"}))
    assert told["checkpoint"] == str(search.start_folder("ReFiT-Zhihu-v0", "published").resolve())
    assert told["reward"] == "log_rank"
