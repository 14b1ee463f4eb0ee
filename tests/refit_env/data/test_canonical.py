from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from refit_env.data import Dataset, Interactions, limits, load_canonical, load_dataset, save_dataset
from refit_env.data.canonical import INFO, INTERACTIONS, SOCIAL
from refit_env.data.catalog import CATALOG
from refit_env.data.interactions import SPLITS
from refit_env.data.tables import read_item_features, read_source_ids
from refit_env.errors import DataError

ROWS = {"user": [0, 0, 0, 1, 1, 1], "item": [0, 1, 2, 1, 2, 3], "split": [0, 1, 2, 0, 1, 2]}
INFO_FIELDS = {"name": "tiny", "task": "cf", "num_users": 2, "num_items": 4}


def put(folder: Path, rows: dict[str, Any] | bytes, **info: Any) -> Path:
    """Write a canonical folder, with or without mistakes, without ``save_dataset``."""
    folder.mkdir(exist_ok=True)
    (folder / INFO).write_text(json.dumps(INFO_FIELDS | info))
    if isinstance(rows, bytes):
        (folder / INTERACTIONS).write_bytes(rows)
    else:
        pd.DataFrame(rows).to_parquet(folder / INTERACTIONS, index=False)
    return folder


def with_row(**values: Any) -> dict[str, Any]:
    """The valid rows with another one appended."""
    return {name: [*column, values.get(name, 0)] for name, column in ROWS.items()}


def test_the_smallest_folder_loads(tmp_path: Path) -> None:
    data = load_canonical(put(tmp_path / "a", ROWS))
    assert (data.name, data.task, data.num_users, data.num_items) == ("tiny", "cf", 2, 4)
    assert [data.split(s).items.tolist() for s in SPLITS] == [[0, 1], [1, 2], [2, 3]]
    assert not data.time_ordered


def test_rows_are_sorted_by_timestamps(tmp_path: Path) -> None:
    rows = {"user": [0, 0, 0, 0, 0], "item": [0, 1, 2, 3, 0], "split": [0, 0, 0, 1, 2]}
    rows["item"][4] = 4
    rows["timestamp"] = [30, 10, 10, 40, 50]
    data = load_canonical(put(tmp_path / "a", rows, num_items=5))
    assert data.train.items.tolist() == [1, 2, 0] and data.time_ordered  # equal times keep the file's order
    assert data.train.timestamps is not None and data.train.timestamps.tolist() == [10, 10, 30]


def test_duplicates_are_merged_and_counted(tmp_path: Path) -> None:
    data = load_canonical(put(tmp_path / "a", with_row(user=0, item=0, split=2)))
    assert data.meta["duplicates_merged"] == 1
    assert [len(data.split(s)) for s in SPLITS] == [2, 2, 2]  # the train row is kept


def test_repeats_are_events_in_sequential_sets(tmp_path: Path) -> None:
    data = load_canonical(put(tmp_path / "a", with_row(user=0, item=0, split=0), task="sequential"))
    assert data.train.of(0).tolist() == [0, 0] and "duplicates_merged" not in data.meta


def test_a_user_without_train_rows_is_allowed_where_the_user_is_a_session(tmp_path: Path) -> None:
    rows = with_row(user=2, item=0, split=2)
    assert load_canonical(put(tmp_path / "a", rows, num_users=3, task="sequential")).num_users == 3


BAD_TABLES: list[tuple[dict[str, Any] | bytes, dict[str, Any], str]] = [
    ({"user": [0], "item": [0]}, {}, r"no column 'split'; it has user, item"),
    ({"uid": [0], "item": [0], "split": [0]}, {}, r"no column 'user'; it has uid"),
    (with_row(user=-1), {}, r"row 6: user -1 is outside 0\.\.1 \(num_users\)"),
    (with_row(user=2), {}, r"row 6: user 2 is outside 0\.\.1 \(num_users\)"),
    (with_row(item=4), {}, r"row 6: item 4 is outside 0\.\.3 \(num_items\)"),
    (with_row(item=1.5), {}, r"row 6: item 1\.5 is not a whole number"),
    (with_row(item=None), {}, r"row 6: item nan is not a whole number"),
    ({**ROWS, "item": list("abcdef")}, {}, r"column 'item' is .*, expected whole numbers"),
    (with_row(split=3), {}, r"row 6: split is 3, expected 0 \(train\)"),
    ({**ROWS, "split": ["train"] * 6}, {}, r"column 'split' is text, expected whole numbers"),
    ({**ROWS, "rating": [5, 4, float("nan"), 3, 3, 3]}, {}, r"row 2: rating is nan"),
    ({**ROWS, "rating": list("abcdef")}, {}, r"column 'rating' is .*, expected numbers"),
    ({**ROWS, "timestamp": [5, 4, 3, float("inf"), 3, 3]}, {}, r"row 3: timestamp is inf"),
    (ROWS, {"num_train": 3}, r"2 train rows, dataset.json says 3; truncated\?"),
    ({**ROWS, "split": [0, 0, 2, 0, 0, 2]}, {}, "the valid split is empty"),
    ({**ROWS, "split": [0, 1, 2, 1, 1, 2]}, {}, "user 1 .* has no train items"),
    (b"PAR1 and then nothing", {}, "not a whole parquet file"),
    (pickle.dumps(ROWS), {}, "this is a pickle"),
    (
        ROWS,
        {"sha256": {INTERACTIONS: "0" * 64}},
        r"sha256 is .*, dataset.json says 0000.*truncated or changed\?",
    ),
    (ROWS, {"sha256": {"items.parquet": "0" * 64}}, r"items.parquet: dataset.json lists this file"),
    (ROWS, {"sha256": {"../../x": "0" * 64}}, r"sha256 of '\.\./\.\./x', which is not a table"),
    (ROWS, {"num_users": "two"}, r"num_users must be a whole number, found text"),
    (ROWS, {"num_items": None}, r"num_items must be a whole number, found null"),
    (ROWS, {"num_items": 0}, r"num_items must be a whole number >= 1"),
    (ROWS, {"num_users": True}, r"num_users must be a whole number, found true or false"),
    (ROWS, {"num_users": 10**9}, r"dataset\.json: num_users is 1,000,000,000, too many for 6 rows"),
    (ROWS, {"num_items": 10**9}, r"dataset\.json: num_items is 1,000,000,000, too many for 6 rows"),
    (ROWS, {"num_items": 10**30}, r"dataset\.json: num_items must be a whole number <= "),
    (ROWS, {"task": "film"}, "task 'film' is not one of cf, poi, sequential, social$"),
    (ROWS, {"task": "film" * 10_000}, r"task 'film.* \.\.\. .*cf, poi, sequential, social$"),
    (ROWS, {"name": 3}, "name must be text or null, found a whole number"),
    (ROWS, {"name": "x" * 201}, r"dataset\.json: name must be "),
    (ROWS, {"preparation": [1]}, r"dataset\.json: preparation must be "),
    (ROWS, {"source": {"a": 1}}, r"dataset\.json: source must be "),
    (ROWS, {"time_ordered": "yes"}, r"dataset\.json: time_ordered must be "),
    ({**ROWS, "timestamp": [1.5e12] * 6}, {}, r"row 0: timestamp is 1500000000000, after the year 2100"),
    ({**ROWS, "user": [[0]] * 6}, {}, r"column 'user' is list<.*>, expected numbers or text"),
]


@pytest.mark.parametrize(("rows", "info", "message"), BAD_TABLES)
def test_bad_folders_are_named_with_row_and_rule(
    rows: dict[str, Any] | bytes, info: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(put(tmp_path / "mine", rows, **info))
    assert str(tmp_path / "mine") in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "3", "null", "[" * 100_000, '{"x": ' * 100_000])
def test_a_broken_dataset_json(text: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "a", ROWS)
    (folder / INFO).write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"dataset\.json"):
        load_dataset(folder)


def test_a_table_that_claims_far_more_than_its_size_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = {name: np.zeros(4_000_000, np.int8) for name in ("user", "item", "split")}
    folder = put(tmp_path / "a", bomb)  # type: ignore[arg-type]
    assert (folder / INTERACTIONS).stat().st_size < 50_000
    monkeypatch.setattr(pq.ParquetFile, "read", None)
    with pytest.raises(
        DataError,
        match=r"bytes claim to hold 12,000,000 values; .* at most 10,\d{3},\d{3}",
    ):
        load_dataset(folder)


def test_a_table_larger_than_the_machines_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(tmp_path / "a", {name: np.zeros(40_000, np.int8) for name in ("user", "item", "split")})  # type: ignore[arg-type]
    monkeypatch.setattr(limits, "memory", lambda: 2**20)
    with pytest.raises(DataError, match=r"120,000 values need about .* GiB of memory; this machine has"):
        load_dataset(folder)


def test_a_long_text_in_every_row_is_stored_once(tmp_path: Path) -> None:
    words = ["x" * 100_000] * 5_000 + ["y"]
    pd.DataFrame({"item": np.arange(5_001), "title": words}).to_parquet(tmp_path / "items.parquet")
    table = read_item_features(tmp_path / "items.parquet", 5_001)
    assert table is not None and len({id(word) for word in table["title"]}) == 2
    assert table["title"][-1] == "y"


def test_source_ids_are_all_numbers_or_all_text(tmp_path: Path) -> None:
    for values, message in ((["a", None], "row 1: id is None"), ([0.5, 1.5], "column 'id' is float64")):
        pd.DataFrame({"id": values}).to_parquet(tmp_path / "ids.parquet")
        with pytest.raises(DataError, match=message):
            read_source_ids(tmp_path / "ids.parquet", 2)


def test_a_truncated_table(tmp_path: Path, tiny: Dataset) -> None:
    folder = save_dataset(tiny, tmp_path / "a")
    whole = (folder / INTERACTIONS).read_bytes()
    (folder / INTERACTIONS).write_bytes(whole[:-20])
    with pytest.raises(DataError, match="truncated or changed"):
        load_dataset(folder)


@pytest.fixture
def tiny() -> Dataset:
    parts = [
        Interactions.from_pairs([0, 1], [n, n + 1], 2, 4, timestamps=[n, n], ratings=[1.5, 5])
        for n in range(3)
    ]
    social = np.array([[0, 1], [1, 0]], dtype=np.int32)
    return Dataset("tiny", "social", *parts, time_ordered=True, social=social, meta={"licence": "mine"})


def test_social_edges_and_meta_survive_a_round_trip(tiny: Dataset, tmp_path: Path) -> None:
    data = load_dataset(save_dataset(tiny, tmp_path / "a"))
    assert data.social is not None and data.social.tolist() == [[0, 1], [1, 0]]
    assert data.meta["licence"] == "mine" and data.meta["social_edges"] == 2
    assert data.train.ratings is not None and data.train.ratings.tolist() == [1.5, 5]


@pytest.mark.parametrize(
    ("edges", "message"), [([[0, 2]], "row 0: user 2"), ([[0.5, 1.0]], "not a whole"), ([[1]], "two")]
)
def test_bad_social_edges(edges: list[list[float]], message: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "a", ROWS)
    pd.DataFrame(edges).set_axis([f"c{n}" for n in range(len(edges[0]))], axis=1).to_parquet(folder / SOCIAL)
    with pytest.raises(DataError, match=f"{SOCIAL}.*{message}"):
        load_dataset(folder)


def test_saving_again_removes_all_old_files(tiny: Dataset, tmp_path: Path) -> None:
    folder = save_dataset(tiny, tmp_path / "a")
    plain = load_canonical(put(tmp_path / "b", ROWS))
    save_dataset(plain, folder, overwrite=True)
    data = load_dataset(folder)
    assert data.social is None and data.train.timestamps is None and data.name == "tiny"


def test_a_folder_is_read_once_per_process_and_again_when_changed(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_dataset(tiny, tmp_path / "a")
    first = load_dataset(folder)
    assert load_dataset(str(folder)) is first
    save_dataset(load_canonical(put(tmp_path / "b", ROWS)), folder, overwrite=True)
    assert load_dataset(folder) is not first


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_every_known_set_loads_as_published(
    name: str, data_home: Path, is_here: Callable[[str], bool]
) -> None:
    if not is_here(name):
        pytest.skip(f"{name} is not in {data_home}")
    data, entry = load_dataset(name), CATALOG[name]
    assert (data.name, data.task, data.time_ordered) == (name, entry.task, entry.time_ordered)
    found = (data.num_users, data.num_items, sum(len(data.split(s)) for s in SPLITS))
    if entry.counts is not None and "PARTIAL" not in str(data.meta.get("note")):
        assert found == entry.counts
    assert (data.social is not None) == (entry.task == "social")
