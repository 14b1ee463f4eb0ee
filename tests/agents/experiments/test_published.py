"""What is published is what the records give, and no figure of a model is there twice."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agents.experiments.plan import plan
from agents.experiments.records import read_records, staleness
from agents.experiments.report import find, report
from agents.experiments.row_groups import read_row_groups
from agents.experiments.shipped import VARIANTS, shipped_of, study_path
from agents.experiments.study import read_study

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results"
OF_VARIANTS = shipped_of(VARIANTS)
PUBLISHED = [name for name in OF_VARIANTS if (RESULTS / f"{name}.json").exists()]


def made(name: str) -> dict[str, Any]:
    study = read_study(study_path(name))
    others = {also.study: list(read_records(RESULTS / f"{also.study}.jsonl").values()) for also in study.also}
    records = list(read_records(RESULTS / f"{name}.jsonl").values())
    return report(find(study, records, others, known=read_row_groups(RESULTS)), "")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_tables_are_what_the_records_give(name: str) -> None:
    published = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    found = made(name)
    assert found["tables"] == published["tables"]
    assert found["provenance"] == published["provenance"]
    assert published["note"].startswith(found["note"])


@pytest.mark.parametrize("name", OF_VARIANTS)
def test_every_record_is_a_cell_of_its_study(name: str) -> None:
    records = read_records(RESULTS / f"{name}.jsonl")
    cells = plan(read_study(study_path(name)), RESULTS / f"{name}.jsonl", large=True)
    assert records.keys() <= {cell.key for cell in cells}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json*")), ids=lambda path: path.name)
def test_what_is_published_names_no_folder_of_a_machine(path: Path) -> None:
    found = re.findall(r"(?:^|[\s\"=])(/(?:tmp|home|root|Users)/\S*)", path.read_text(encoding="utf-8"))
    assert not found


def test_the_records_that_state_their_data_are_what_would_be_measured_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the others the commands say that they are stale."""
    monkeypatch.setattr("agents.experiments.records._other_data", lambda old, name, absent: [])
    records = read_records(RESULTS / "fine-tuning.jsonl")
    cells = plan(read_study(study_path("fine-tuning")), RESULTS / "fine-tuning.jsonl")
    stated = [cell for cell in cells if "provenance" in records.get(cell.key, {})]
    assert len(stated) == 35
    assert [staleness(records[cell.key], cell) for cell in stated] == [[]] * 35


def test_a_model_on_an_environment_is_measured_by_one_study_at_one_budget() -> None:
    """Studies with a budget of environment steps of their own name it in the titles of their tables."""
    seen: dict[tuple[str, str, str], str] = {}
    for name in PUBLISHED:
        study = read_study(study_path(name))
        if study.budget is not None:
            assert all("{budget}" in table.title for table in study.tables if table.kind == "rows")
            continue
        for record in read_records(RESULTS / f"{name}.jsonl").values():
            row = (record["env"], record["model"], record["variant"])
            assert seen.setdefault(row, name) == name, f"{row} is in {seen[row]} and {name}"
