"""Tests of ``items.parquet``, the features of the items."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refit_env.data import Dataset, load_canonical, load_dataset, save_dataset, synthesize
from refit_env.data.canonical import INFO, ITEMS
from refit_env.errors import DataError

SMALL = synthesize(num_users=12, num_items=30, num_clusters=2)


def located(**columns: Any) -> Dataset:
    return dataclasses.replace(SMALL, name="tiny", item_features={k: np.array(v) for k, v in columns.items()})


@settings(max_examples=25)
@given(
    st.lists(st.floats(-90, 90), min_size=30, max_size=30),
    st.lists(st.floats(-180, 180), min_size=30, max_size=30),
    st.lists(st.text(st.characters(codec="utf-8")), min_size=30, max_size=30),
)
def test_features_of_items_survive(lat: list[float], lon: list[float], text: list[str]) -> None:
    data = located(lat=lat, lon=lon, text=np.array(text, dtype=object))
    with tempfile.TemporaryDirectory() as folder:
        found = load_canonical(save_dataset(data, folder)).item_features
        assert found is not None and sorted(found) == ["lat", "lon", "text"]
        assert (
            found["lat"].tolist() == lat and found["lon"].tolist() == lon and found["text"].tolist() == text
        )
        assert found["lat"].dtype == np.float64


def test_rows_in_another_order_are_sorted_by_item(tmp_path: Path) -> None:
    folder = save_dataset(SMALL, tmp_path / "a")
    order = np.random.default_rng(0).permutation(30)
    pd.DataFrame({"item": order, "lat": order / 10, "lon": -order / 10}).to_parquet(folder / ITEMS)
    found = load_dataset(folder).item_features
    assert found is not None and found["lat"].tolist() == [n / 10 for n in range(30)]


def test_a_folder_without_the_table_has_no_features_and_saving_again_removes_it(tmp_path: Path) -> None:
    folder = save_dataset(located(lat=np.zeros(30)), tmp_path / "a")
    assert (folder / ITEMS).is_file()
    save_dataset(SMALL, folder, overwrite=True)
    assert not (folder / ITEMS).exists() and load_canonical(folder).item_features is None


BAD: list[tuple[dict[str, Any], str]] = [
    ({"lat": [0.0] * 30}, r"no column 'item'; it has lat"),
    ({"item": range(29), "lat": [0.0] * 29}, r"one row for each of the 30 items; item 29 has 0"),
    ({"item": [*range(29), 0], "lat": [0.0] * 30}, r"one row for each of the 30 items; item 0 has 2"),
    ({"item": [*range(29), 30], "lat": [0.0] * 30}, r"row 29: item 30 is outside 0\.\.29 \(num_items\)"),
    ({"item": range(30), "lat": [0.0] * 29 + [90.5]}, r"row 29: lat is 90\.5, outside -90\.\.90"),
    ({"item": range(30), "lon": [-181.0] + [0.0] * 29}, r"row 0: lon is -181\.0, outside -180\.\.180"),
    (
        {"item": range(30), "lat": [float("nan")] * 30},
        r"row 0: lat is nan, .*; leave out the columns",
    ),
    ({"item": range(30), "lon": ["east"] * 30}, r"column 'lon' is .*, expected numbers"),
]


@pytest.mark.parametrize(("columns", "message"), BAD)
def test_bad_tables_are_named_with_row_and_rule(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = save_dataset(SMALL, tmp_path / "a")
    pd.DataFrame(columns).to_parquet(folder / ITEMS)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(folder)
    assert "items.parquet" in str(caught.value)


def test_a_truncated_table_is_detected(tmp_path: Path) -> None:
    folder = save_dataset(located(lat=np.zeros(30)), tmp_path / "a")
    (folder / ITEMS).write_bytes((folder / ITEMS).read_bytes()[:-9])
    with pytest.raises(DataError, match=r"items\.parquet: sha256 is .*truncated or changed"):
        load_dataset(folder)
    text = (folder / INFO).read_text()
    (folder / INFO).write_text(text.replace('"items.parquet"', '"interactions.parquet"', 1))
    with pytest.raises(DataError, match="parquet"):
        load_dataset(folder)


@pytest.mark.parametrize("name", ["foursquare", "tky", "nyc"])
def test_the_real_places_are_read(name: str, data_home: Path, is_here: Callable[[str], bool]) -> None:
    if not is_here(name):
        pytest.skip(f"{name} is not in {data_home}")
    data = load_dataset(name)
    assert data.item_features is not None
    lat, lon = data.item_features["lat"], data.item_features["lon"]
    assert lat.shape == lon.shape == (data.num_items,)
    city = {"foursquare": (1.3, 103.8), "tky": (35.7, 139.7), "nyc": (40.7, -74.0)}[name]
    assert np.abs(lat - city[0]).max() < 0.5 and np.abs(lon - city[1]).max() < 0.5
