"""Tests of data sets in mapped Arrow files: what is written is loaded, and damage is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refit_env.data import Dataset, load_dataset, load_mapped, synthesize, write_mapped
from refit_env.data.interactions import SPLITS
from refit_env.errors import DataError


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthesize(num_users=50, num_items=60)


def ranges(data: Dataset, *ends: int) -> list[Dataset]:
    """The data set as ranges of users that end at ``ends``."""
    return [data.part(first, last) for first, last in zip((0, *ends), (*ends, data.num_users), strict=True)]


def same(found: Dataset, wanted: Dataset) -> bool:
    """Whether all arrays of the splits are equal."""
    return all(
        np.array_equal(getattr(found.split(split), name), getattr(wanted.split(split), name))
        for split in SPLITS
        for name in ("indptr", "items", "timestamps")
    )


@pytest.mark.parametrize("ends", [(), (1,), (20, 49)])
def test_ranges_of_users_are_loaded_as_the_whole_data_set(
    data: Dataset, tmp_path: Path, ends: tuple[int, ...]
) -> None:
    folder = write_mapped(ranges(data, *ends), tmp_path / "shop")
    found = load_mapped(folder)
    assert same(found, data)
    assert (found.name, found.num_items, found.time_ordered) == (data.name, data.num_items, True)
    assert not found.mixed_validation
    mixed = ranges(replace(data, mixed_validation=True), *ends)
    assert load_mapped(write_mapped(mixed, tmp_path / "mixed")).mixed_validation
    assert sorted(path.suffix for path in folder.iterdir()) == [".arrow"] * 6 + [".json"]
    assert load_dataset(folder).train.items.base is not None  # a name of the command line loads it, too


def test_the_arrays_are_views_of_the_files(data: Dataset, tmp_path: Path) -> None:
    found = load_mapped(write_mapped([data], tmp_path / "shop"))
    part = found.part(10, 20)
    assert not found.train.items.flags.owndata and not found.train.items.flags.writeable
    assert np.shares_memory(part.train.items, found.train.items)
    assert same(part, data.part(10, 20)) and part.fingerprint == found.fingerprint


def test_the_fingerprint_depends_on_the_content(data: Dataset, tmp_path: Path) -> None:
    one = load_mapped(write_mapped([data], tmp_path / "one")).fingerprint
    again = load_mapped(write_mapped([data], tmp_path / "again")).fingerprint
    other = load_mapped(write_mapped([synthesize(seed=1, num_users=50, num_items=60)], tmp_path / "other"))
    assert one == again != other.fingerprint


def test_a_range_that_does_not_fit_writes_nothing(data: Dataset, tmp_path: Path) -> None:
    other = synthesize(num_users=50, num_items=61)
    with pytest.raises(DataError, match="has 61 items, the users before 60"):
        write_mapped([data, other], tmp_path / "shop")
    timeless = replace(data, train=replace(data.train, timestamps=None))
    with pytest.raises(DataError, match="the users before"):
        write_mapped([data, timeless], tmp_path / "shop")
    with pytest.raises(DataError, match="no users were given"):
        write_mapped([], tmp_path / "shop")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_not_replaced(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty"):
        write_mapped([data], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize("file", ["train-rows.arrow", "valid-users.arrow"])
def test_a_damaged_file_is_named(data: Dataset, tmp_path: Path, file: str) -> None:
    folder = write_mapped([data], tmp_path / "shop")
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=file):
        load_mapped(folder)
    (folder / file).unlink()
    with pytest.raises(DataError, match=file):
        load_mapped(folder)


def test_files_of_another_data_set_are_refused(data: Dataset, tmp_path: Path) -> None:
    folder = write_mapped([data], tmp_path / "shop")
    other = write_mapped([synthesize(num_users=40, num_items=60)], tmp_path / "other")
    (other / "train-users.arrow").replace(folder / "train-users.arrow")
    with pytest.raises(DataError, match="the rows of 50 users must be its"):
        load_mapped(folder)
    again = write_mapped([data], tmp_path / "again")
    text = (again / "mapped.json").read_text().replace('"num_items": 60', '"num_items": 20')
    (again / "mapped.json").write_text(text)
    with pytest.raises(DataError, match=r"train-rows.arrow: an item is outside 0\.\.19"):
        load_mapped(again)


@pytest.mark.parametrize(("first", "last"), [(3, 3), (-1, 4), (10, 51)])
def test_a_part_is_a_range_of_users(data: Dataset, first: int, last: int) -> None:
    with pytest.raises(ValueError, match=r"must be a range in 0\.\.49"):
        data.part(first, last)
