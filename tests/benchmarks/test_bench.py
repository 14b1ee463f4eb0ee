"""Tests of the table of ratios: what a part measures, what is kept, what is printed and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.experiments.cells import Outcome
from agents.experiments.records import append_record
from benchmarks import bench, bench_parts
from benchmarks.bench_parts import Budget
from benchmarks.counting import GROUPS, OTHERS, count, seconds_by_group
from benchmarks.harness import in_turns
from benchmarks.workloads import large_dataset
from refit_env.backbones.few_values import FewValues


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set of the benchmarks that is generated, and networks of its size."""
    monkeypatch.setattr(bench, "CATALOGUES", {"tiny": (90, 60, 20)})
    monkeypatch.setattr(bench, "data_of_name", lambda name: None)
    monkeypatch.setattr(bench_parts, "load_or_generate", lambda name: (large_dataset(90, 60, 20), name))
    return "tiny"


@pytest.mark.parametrize("part", bench_parts.PARTS)
def test_a_part_makes_one_round_when_its_time_is_over(tiny: str, part: str) -> None:
    found = bench_parts.PARTS[part](tiny, Budget(rounds=3, seconds=0.0))
    assert all(each["found"] > 0 and each["target"] > 0 for each in found["rows"])
    assert min(found["seconds"].values()) > 0
    if part == "iteration":
        (profile,) = found["profile"].values()
        assert set(profile) == {*GROUPS, OTHERS} and profile["products"] > 0
        assert "GFLOP" in found["rows"][1]["detail"]


def test_rounds_end_at_the_given_time() -> None:
    calls: list[int] = []
    found = in_turns({"a": lambda: calls.append(1)}, rounds=5, min_seconds=0, until=0.0)
    assert len(found["a"].seconds) == 1 and len(calls) == 2


def test_products_and_picked_rows_are_counted() -> None:
    a, table, places = torch.ones(4, 3), torch.ones(1000, 2), torch.tensor([1, 5])
    assert count(lambda: a.T @ a).operations == 2 * 3 * 4 * 3
    assert count(lambda: torch.zeros(3, 3).addmm_(a.T, a)).operations == 2 * 3 * 4 * 3, "added in place"
    few = FewValues.of(torch.eye(4))
    assert count(lambda: few.times(a)).operations == 2 * 4 * 3, "the zeros are not multiplied"
    assert count(lambda: table.index_select(0, places)).moved == 2 * 8 + 2 * (2 * 2 * 4)
    assert count(lambda: table.view(-1)).moved == 0
    assert seconds_by_group(lambda: a.T @ a)["products"] > 0


def test_finished_parts_are_kept_until_all_are(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[str] = []

    def finish(cells: Any, path: Path, *, redo: bool, on_end: Any) -> None:
        for cell in cells:
            if cell.key not in bench.read_records(path):
                if measured and broken:
                    raise SystemExit("interrupted")
                measured.append(cell.key)
                rows = [bench_parts.row(cell.key, 1.2, 1.15)]
                result = {"key": cell.key, "rows": rows, "seconds": {"a": 1.0}, "processor": 2.5}
                append_record(path, result)
                on_end(Outcome(cell, result, "", 1.0))

    monkeypatch.setattr(bench, "finish_cells", finish)
    broken = True
    page = tmp_path / "page.md"
    page.write_text("the page of before")
    with pytest.raises(SystemExit, match="interrupted"):
        bench.measure([tiny], out=tmp_path, write=page)
    assert page.read_text() == "the page of before"
    assert "bench_tiny_evaluation: 1.20 (target <= 1.15, not met)" in capsys.readouterr().out
    broken = False
    path = bench.measure([tiny], out=tmp_path, write=page)
    assert measured == [f"bench_tiny_{part}" for part in bench_parts.PARTS]
    found = json.loads(path.read_text())
    assert [line[:4] for line in found["table"]["rows"][:3]] == [
        [f"bench_tiny_{part}", "1.20", "<= 1.15", "no"] for part in bench_parts.PARTS
    ]
    assert "took 8 s of a processor" in page.read_text()
    assert "| bench_tiny_training | 1.20 | <= 1.15 | no |" in page.read_text()
    bench.measure([tiny], out=tmp_path)
    assert len(measured) == 6, "a finished table is measured anew"


def test_ratios_of_other_commands_have_their_targets() -> None:
    rows = [bench.text(each) for each in bench.stored(bench.RESULTS)]
    assert {line[5] for line in rows} >= {
        "python -m benchmarks.fine_tuning_cost",
        "python -m benchmarks.scaling",
    }
    assert all(line[3] in ("yes", "within", "no") for line in rows)
    memory = next(line for line in rows if "memory, diffrec, fine-tuning" in line[0])
    assert memory[2] == "<= 1.0122" and len(memory[1].split(".")[1]) == 3


def test_the_whole_pretraining_is_compared_with_an_iteration(tmp_path: Path) -> None:
    key = "ReFiT-ML1M-v0_diffrec_{}_seed0"
    settings = {"reinforce": {"settings": {"iterations": 10}}}
    start = {"key": key.format("pretrained"), "cost": {"training_seconds": 90.0}}
    tuned = {"key": key.format("reinforce"), "cost": {"training_seconds": 20.0}, "settings": settings}
    append_record(tmp_path / "fine-tuning.jsonl", start)
    assert bench.whole_trainings(tmp_path) == []
    append_record(tmp_path / "fine-tuning.jsonl", tuned)
    (found,) = bench.whole_trainings(tmp_path)
    assert (found["found"], found["target"]) == (45.0, 40.0)
    assert found["detail"] == "1 seeds, 45 to 45"


def test_an_unknown_data_set_is_named() -> None:
    with pytest.raises(ValueError, match="unknown data set of the benchmarks 'ml-2m'"):
        bench.measure(["ml-2m"])


def test_the_profile_of_an_earlier_commit_is_beside_todays(tmp_path: Path) -> None:
    assert bench.earlier_profiles(tmp_path) == []
    profile = dict.fromkeys([*GROUPS, OTHERS], 0.001)
    stored = {"commit": "abc", "measured": {"ml-1m": {"before": {"profile": profile}}}}
    (tmp_path / "before.json").write_text(json.dumps(stored))
    (found,) = bench.earlier_profiles(tmp_path)
    assert found == ["ml-1m, before (abc)", *["1.0"] * len(profile), "6.0"]
