from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from refit_env.errors import DataError
from refit_env.utils.atomic_io import atomic_path, read_json, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with atomic_path(target) as path:
        path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as path:
        path.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and os.listdir(target.parent) == ["a.txt"]


def test_files_are_readable_by_others_as_usual(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.txt") as path:
        path.write_text("text")
    (tmp_path / "b.txt").write_text("text")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "b.txt")]
    assert modes[0] == modes[1]


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None], "b": "é"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json") == value


def test_files_that_are_not_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(DataError, match=r"a\.json: not a JSON file"):
        read_json(tmp_path / "a.json")
