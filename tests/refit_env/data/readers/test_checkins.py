"""Tests of check-ins in the published formats, with generated users and places."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refit_env.data.readers import delimited
from refit_env.data.readers.formats import guess_format, read_rows
from refit_env.errors import DataError

Write = Callable[[str, str | bytes], Path]

CAFE = "4bf58dd8d48988d16d941735\tCafé"
NYC = (
    f"470\t49bbd6c0f964a520f4531fe3\t{CAFE}\t40.719810375488535\t-74.00258103213994\t-240\t"
    "Tue Apr 03 18:00:09 +0000 2012\n"
    f"979\t4a43c0aef964a520c6a61fe3\t{CAFE}\t40.6067\t-74.0441\t-240\tTue Apr 03 18:00:25 +0000 2012\n"
    f"470\t4a43c0aef964a520c6a61fe3\t{CAFE}\t40.6067\t-74.0441\t-300\tSat Feb 16 02:03:04 +0000 2013\n"
)
TUNE = "USER_7\tLOC_20\t1.30,103.85\t04:12\t0\nUSER_7\tLOC_3\t1.25,-103.5\t23:59\t12\n"


def test_tsmc2014_is_latin_1_with_places(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("dataset_TSMC2014_NYC.txt", NYC.encode("latin-1"))
    monkeypatch.setattr(delimited, "_read_plain", lambda *_: pytest.fail("read line by line"))
    assert guess_format(path) == guess_format(path.parent) == "tsmc2014"
    rows = read_rows(path, "tsmc2014")
    assert rows.users.tolist() == [470, 979, 470] and rows.items[1] == rows.items[2]
    assert rows.timestamps is not None
    assert rows.timestamps.tolist() == [1333476009.0, 1333476025.0, 1360980184.0]
    assert rows.item_table is not None and len(rows.item_table["item"]) == 2
    assert rows.item_table["lat"].tolist() == [40.719810375488535, 40.6067]


@pytest.mark.parametrize("encode", [lambda text: b"\xef\xbb\xbf" + text.encode(), str.encode])
def test_tsmc2014_may_be_saved_again_as_utf_8_with_windows_lines(
    encode: Callable[[str], bytes], write: Write
) -> None:
    path = write("dataset_TSMC2014_NYC.txt", encode(NYC.replace("\n", "\r\n")))
    assert read_rows(path, "tsmc2014").users.tolist() == [470, 979, 470]


BAD_TSMC = [
    (NYC.replace("979", "x9"), r"line 2: user 'x9' is not a whole number"),
    (
        NYC.replace("18:00:25 +0000", "18:00:61 +0000"),
        r"line 2: timestamp 'Tue Apr 03 18:00:61.*is not a d",
    ),
    (NYC.replace("40.719810375488535", "4O.7"), r"line 1: lat '4O\.7' is not a number"),
    (NYC.replace("40.719810375488535", "94.7"), r"line 1: lat 94\.7 is outside -90\.\.90"),
    (NYC.replace("-74.0441\t-300", "-274\t-300"), r"line 3: lon -274\.0 is outside -180\.\.180"),
    (NYC.replace("\t-300\t", "\t"), r"line 3: expected 'user<tab>venue<tab>.*\(8 fields\), found .*\(7\)"),
    (NYC[:-20], r"line 3: timestamp 'Sat Feb 16' is not a date"),
    (NYC[: NYC.rindex("\t", 0, -40)], r"line 3: .*Is the file truncated\?"),
    (NYC.replace("4a43c0aef964a520c6a61fe3", " "), "line 2: item is empty"),
    (NYC.replace("\t", ","), r"line 1: .*Separated by ','\?"),
    ("", "the file is empty"),
    (NYC.encode("utf-16"), "UTF-16 text; save the file as UTF-8"),
]


@pytest.mark.parametrize(("content", "message"), BAD_TSMC)
def test_bad_tsmc2014_files_are_named_with_line_and_rule(
    content: str | bytes, message: str, write: Write
) -> None:
    raw = content if isinstance(content, bytes) else content.encode("latin-1")
    path = write("dataset_TSMC2014_NYC.txt", raw)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path, "tsmc2014")
    assert str(path) in str(caught.value)


def test_lbsn_files_are_split_and_drop_unknown_places(write: Write) -> None:
    write("train.txt", "USER_2\tLOC_20\t1.30,103.85\t4:05\t3\r\nUSER_2\tLOC_null\tnull\t04:05\t3\r\n")
    write("tune.txt", TUNE)
    path = write("test.txt", "USER_2\tLOC_3\t1.25,-103.5\t00:00\t400\n")
    assert guess_format(path.parent) == "lbsn"
    rows = read_rows(path.parent, "lbsn")
    assert rows.users.tolist() == [2, 7, 7, 2] and rows.items.tolist() == [20, 20, 3, 3]
    assert rows.timestamps is not None
    day = 86400.0
    assert rows.timestamps.tolist() == [3 * day + 4 * 3600 + 300, 4 * 3600 + 720, 13 * day - 60, 400 * day]
    assert rows.split is not None and rows.split.tolist() == [0, 1, 1, 2]
    assert rows.dropped == {"a known place": 1}
    assert rows.item_table is not None
    known = {name: values.tolist() for name, values in rows.item_table.items()}
    assert known == {"item": [20, 3], "lat": [1.30, 1.25], "lon": [103.85, -103.5]}


BAD_LBSN = [
    (TUNE.replace("USER_7\tLOC_3", "7\tLOC_3"), r"tune.txt line 2: user '7' is not USER_ and a number"),
    (TUNE.replace("LOC_3", "LOC_x"), r"line 2: place 'LOC_x' is not LOC_ and a number"),
    (TUNE.replace("LOC_3", "LOC_null").replace("LOC_20", "20"), r"line 1: place '20' is not LOC_"),
    (TUNE.replace("1.25,-103.5", "1.25"), r"line 2: lat,lon '1\.25' is not two numbers"),
    (TUNE.replace("1.25,-103.5", "1.25,nan"), r"line 2: lat,lon '1\.25,nan' is not two numbers"),
    (TUNE.replace("1.25,-103.5", "103.5,1.25"), r"line 2: lat 103\.5 is outside -90\.\.90"),
    (TUNE.replace("23:59", "24:00"), r"line 2: clock '24:00' is not a time HH:MM"),
    ("\n\n" + TUNE.replace("23:59", "23.59"), r"line 4: clock '23\.59' is not a time"),
    (TUNE.replace("\t12", "\t-1"), r"line 2: day '-1' is negative"),
    (TUNE.replace("\t12", ""), r"line 2: expected 'USER_1<tab>LOC_2<tab>.*\(4\)"),
    (TUNE.encode("latin-1") + b"USER_1\tLOC_\xe9", "not UTF-8 text"),
]


@pytest.mark.parametrize(("content", "message"), BAD_LBSN)
def test_bad_lbsn_files_are_named_with_line_and_rule(
    content: str | bytes, message: str, write: Write
) -> None:
    write("train.txt", TUNE), write("test.txt", TUNE)
    path = write("tune.txt", content)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path.parent, "lbsn")
    assert "tune.txt" in str(caught.value)


def test_a_missing_part_is_named(write: Write) -> None:
    write("train.txt", TUNE)
    path = write("tune.txt", TUNE)
    with pytest.raises(DataError, match=r"no test\.txt; the folder holds train\.txt, tune\.txt"):
        read_rows(path.parent, "lbsn")


coordinates = st.tuples(
    st.floats(-90, 90).map(lambda x: round(x, 8)), st.floats(-180, 180).map(lambda x: round(x, 8))
)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 1439), st.integers(0, 400)), min_size=1
    ),
    st.lists(coordinates, min_size=6, max_size=6),
)
def test_lbsn_is_read_as_written(
    visits: list[tuple[int, int, int, int]], where: list[tuple[float, float]]
) -> None:
    lines = [
        f"USER_{u}\tLOC_{i}\t{where[i][0]},{where[i][1]}\t{m // 60:02d}:{m % 60:02d}\t{d}\n"
        for u, i, m, d in visits
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("train", "tune", "test"):
            (Path(folder) / f"{name}.txt").write_text("".join(lines))
        rows = read_rows(folder, "lbsn")
    want = np.array(visits * 3)
    assert np.array_equal(rows.users, want[:, 0]) and np.array_equal(rows.items, want[:, 1])
    assert np.array_equal(rows.timestamps, want[:, 3] * 86400.0 + want[:, 2] * 60.0)  # type: ignore[arg-type]
    assert rows.item_table is not None
    places = zip(*(rows.item_table[name].tolist() for name in ("item", "lat", "lon")), strict=True)
    assert {i: (lat, lon) for i, lat, lon in places} == {i: where[i] for i in {i for _, i, _, _ in visits}}


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 1083),
            st.sampled_from("abc"),
            st.datetimes(datetime(2012, 4, 12), datetime(2013, 2, 16), timezones=st.just(UTC)),
        ),
        min_size=1,
    ),
    st.lists(coordinates, min_size=3, max_size=3),
    st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=12),
)
def test_tsmc2014_is_read_as_written(
    visits: list[tuple[int, str, datetime]], where: list[tuple[float, float]], category: str
) -> None:
    lines = []
    for user, venue, moment in visits:
        lat, lon = where["abc".index(venue)]
        stamp = moment.strftime("%a %b %d %H:%M:%S +0000 %Y")
        lines.append(f"{user}\t{venue * 24}\t4bf5\t{category}\t{lat}\t{lon}\t-240\t{stamp}\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dataset_TSMC2014_NYC.txt"
        path.write_bytes("".join(lines).encode("latin-1"))
        rows = read_rows(path, "tsmc2014")
    assert rows.users.tolist() == [user for user, _, _ in visits]
    assert rows.items.tolist() == [venue * 24 for _, venue, _ in visits]
    assert rows.timestamps is not None
    assert rows.timestamps.tolist() == [moment.replace(microsecond=0).timestamp() for _, _, moment in visits]
