"""YAML as it is read here: numbers of YAML 1.2, each entry once, nothing but plain values."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.hyperparams.yaml_files import read_yaml
from refit_env.errors import DataError


def read(text: str, folder: Path) -> dict[str, object]:
    path = folder / "a.yml"
    path.write_text(text, encoding="utf-8")
    return read_yaml(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("5E3", 5e3), ("-.5", -0.5), ("3", 3), ("0.25", 0.25), ("none", "none"),
        ("null", None), ("1e-4x", "1e-4x"), ("'1e-4'", "1e-4"), ("true", True), ("t-diffrec", "t-diffrec"),
    ],
)  # fmt: skip
def test_numbers_are_those_of_yaml_1_2(text: str, value: object, tmp_path: Path) -> None:
    found = read(f"a: {text}", tmp_path)["a"]
    assert found == value and type(found) is type(value)


def test_merged_mappings_keep_their_own_entries(tmp_path: Path) -> None:
    found = read("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n", tmp_path)
    assert found["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "line 2: 'a' is repeated"),
        ("b: {c: 1, c: 2}", "line 1: 'c' is repeated"),
        ("a: !!python/object/apply:os.system ['true']", "line 1: could not determine a constructor"),
        ("a: [1", "line 1: "),
        ("? [1]\n: 2", "line 1: "),
        ("3", "must be a mapping"),
        ("[" * 5000, "line|nested too deeply"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(text, tmp_path)
    assert str(error.value).startswith(str(tmp_path / "a.yml")) and "\n" not in str(error.value)


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    assert read("# nothing\n", tmp_path) == {}


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yml"
        path.write_bytes(content)
        try:
            assert isinstance(read_yaml(path), dict)
        except DataError as error:
            assert str(path) in str(error)
