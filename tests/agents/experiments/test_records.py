"""Records of cells: where they come from, and what makes them stale."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agents.experiments import provenance
from agents.experiments.cell_processes import do_cell
from agents.experiments.provenance import Commit, command_line, commit, provenance_of, sources
from agents.experiments.records import (
    Cell,
    CellError,
    append_record,
    differences,
    other_commits,
    read_cell,
    read_records,
    staleness,
)
from agents.runs.hardware import made_with
from refit_env.data import load_dataset
from refit_env.errors import DataError

FILE = "cells.jsonl"


@dataclass(frozen=True)
class Settings:
    rate: float = 1.0
    sizes: tuple[int, ...] = (2, 3)


CELL = Cell("a", json.loads, ('{"value": 1}',), {"agent": Settings(), "seed": 0}, data="synthetic")


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    do_cell(CELL, tmp_path / FILE, "refit compare something")
    found = read_cell(tmp_path / FILE, CELL)
    assert found is not None
    return found


def test_a_record_holds_all_that_a_repetition_would_have_to_match(record: dict[str, Any]) -> None:
    assert record["value"] == 1
    assert record["settings"] == {"agent": {"rate": 1.0, "sizes": [2, 3]}, "seed": 0}
    found = provenance_of(record)
    assert found is not None and found.data is not None
    assert (found.data.name, found.data.fingerprint) == ("synthetic", load_dataset("synthetic").fingerprint)
    assert found.command == "refit compare something"
    assert found.versions == made_with() and found.versions["torch"] != "unknown"
    assert found.machine["cores"] >= 1 and found.commit == commit()


def test_data_of_another_content_make_a_record_stale(
    record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = provenance.Data("synthetic", "f" * 64)
    monkeypatch.setattr("agents.experiments.records.data_of_name", lambda name: other)
    with pytest.raises(
        CellError, match=r"cells\.jsonl: a is stale, data was synthetic [0-9a-f]{12}, now synthetic f{12}"
    ):
        read_cell(tmp_path / FILE, CELL)
    assert read_cell(tmp_path / FILE, CELL, stale=True) == record


def test_data_that_are_gone_cannot_be_compared(
    record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(name: str) -> None:
        raise DataError("there is no synthetic")

    monkeypatch.setattr("agents.experiments.records.data_of_name", gone)
    assert staleness(record, CELL) == ["its data cannot be compared: there is no synthetic"]
    assert staleness(record, CELL, absent=False) == []  # a clone shows it, and does not call it stale


def test_a_record_from_before_provenance_is_stale(record: dict[str, Any]) -> None:
    older = {name: value for name, value in record.items() if name != "provenance"}
    assert staleness(older, CELL) == ["it does not record the fingerprint of its data"]
    assert staleness({}, CELL)[0] == "it does not record its settings"
    many = {**record, "settings": {"agent": {"rate": 1.0}, "seed": 0, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5}}
    assert staleness(many, CELL)[2:] == ["c was 3, now not set", "and 2 more settings"]


def test_a_setting_that_was_added_later_counts_as_its_default() -> None:
    old = {"agent": {"rate": 1.0}}
    assert differences(old, {"agent": Settings()}) == []
    assert differences(old, {"agent": Settings(sizes=(5,))}) == ["agent.sizes was [2, 3], now [5]"]
    assert differences({"agent": {"rate": 1.0, "gone": 4}}, {"agent": Settings()}) == [
        "agent.gone was 4, now not set"
    ]
    assert differences({"agent": {"rate": 2.0, "sizes": [2, 3]}}, {"agent": Settings()}) == [
        "agent.rate was 2.0, now 1.0"
    ]


def test_another_commit_is_information(
    record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert other_commits([CELL], tmp_path / FILE) == ""
    monkeypatch.setattr("agents.experiments.records.commit", lambda: Commit("0" * 40, False))
    assert other_commits([CELL], tmp_path / FILE).endswith("the code is now 000000000000")
    assert read_cell(tmp_path / FILE, CELL) == record  # it is used all the same


def test_damaged_records_are_named(record: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / FILE
    good = path.read_text()
    damaged = ("[]", "3", "{", '{"key": 3}', "{}", '{"key": "a", "provenance": 3}')
    for text in (*damaged, '{"key": "a", "provenance": {"commit": []}}'):
        path.write_text(good + text + "\n")
        with pytest.raises(DataError, match=r"cells\.jsonl line 2: "):
            read_cell(path, CELL)


def test_a_later_line_replaces_an_earlier_one_of_its_key(tmp_path: Path) -> None:
    path = tmp_path / FILE
    for key, value in (("a", 1), ("b", 2), ("a", 3)):
        append_record(path, {"key": key, "value": value})
    assert {key: found["value"] for key, found in read_records(path).items()} == {"a": 3, "b": 2}
    assert len(path.read_text().splitlines()) == 3  # nothing is lost
    assert read_records(tmp_path / "none.jsonl") == {}


def test_a_line_that_a_killed_writer_left_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / FILE
    append_record(path, {"key": "a"})
    whole = path.read_text()
    path.write_text(whole + '{"key": "b", "val')
    assert list(read_records(path)) == ["a"]
    append_record(path, {"key": "c"})
    assert path.read_text() == whole + '{"key":"c"}\n'
    path.write_text(whole.rstrip("\n"))  # whole but for its end
    assert list(read_records(path)) == ["a"]
    append_record(path, {"key": "c"})
    assert list(read_records(path)) == ["a", "c"]


def test_what_is_no_json_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    append_record(tmp_path / FILE, {"key": "a"})
    with pytest.raises(ValueError, match="JSON"):
        append_record(tmp_path / FILE, {"key": "b", "value": float("nan")})
    assert list(read_records(tmp_path / FILE)) == ["a"]


def test_many_writers_append_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: append_record(path, {"key": str(n), "text": "x" * 50_000}), range(40)))
    assert len(read_records(path)) == 40


def test_many_stale_records_are_counted(tmp_path: Path) -> None:
    cells = [replace(CELL, key=f"c{number}", data="") for number in range(25)]
    for cell in cells:
        append_record(tmp_path / FILE, {"key": cell.key})
    from agents.experiments.records import unfinished

    with pytest.raises(CellError) as error:
        unfinished(cells, tmp_path / FILE)
    lines = str(error.value).splitlines()
    assert len(lines) == 21 and lines[-1] == "... and 5 more"
    assert len(unfinished(cells, tmp_path / FILE, redo=True)) == 25


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def test_a_commit_is_that_of_the_source_tree_and_says_whether_it_changed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "agents").mkdir(parents=True)
    (source / "agents" / "a.py").write_text("a = 1\n")
    assert commit(source) == Commit(None, None)
    git(source, "init", "-q")
    git(source, "add", ".")
    git(source, "commit", "-qm", "one")
    clean = commit(source)
    assert clean.id is not None and len(clean.id) == 40 and clean.dirty is False
    (source / "benchmarks" / "results").mkdir(parents=True)
    (source / "benchmarks" / "results" / "cell.json").write_text("{}")
    assert commit(source) == clean  # results are no code
    (source / "agents" / "b.py").write_text("b = 1\n")
    assert commit(source) == Commit(clean.id, True)
    installed = source / "site-packages"
    installed.mkdir()
    assert commit(installed) == Commit(None, None)  # somebody else's checkout around it says nothing


def test_a_copy_without_git_states_the_commit_that_it_was_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFIT_COMMIT", "ab" * 20)
    assert commit(tmp_path) == Commit("ab" * 20, None)
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    assert commit(tmp_path).id not in (None, "ab" * 20)  # git knows better
    monkeypatch.setenv("REFIT_COMMIT", "main")
    with pytest.raises(ValueError, match="REFIT_COMMIT='main' must be the 40 hexadecimal digits"):
        commit(tmp_path / "nowhere")


def test_the_command_line_is_what_was_typed_without_folders() -> None:
    code = "from agents.experiments.provenance import command_line; print(command_line())"
    for out in (["--out", "/home/me/x"], ["--out=/home/me/x"], []):
        command = [sys.executable, "-c", code, *out, "--seeds", "2"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stdout.strip() == "-c --seeds 2"
    assert "/" not in command_line().split()[0]


def test_sources_count_commits_and_name_data(record: dict[str, Any]) -> None:
    found = sources([record, record, {"machine": {"processor": "P"}}])
    assert found["commits"] == {str(commit()): 2} and found["unrecorded"] == 1
    assert found["data"] == {"synthetic": [load_dataset("synthetic").fingerprint]}
    assert found["processors"]["P"] == 1 and sum(found["processors"].values()) == 3
