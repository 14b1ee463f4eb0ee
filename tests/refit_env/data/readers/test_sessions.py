"""Tests of session logs in the published formats, with generated numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refit_env.data.readers import delimited
from refit_env.data.readers.formats import guess_format, read_rows
from refit_env.errors import DataError

Write = Callable[[str, str | bytes], Path]

CLICKS = (
    "1,2014-04-07T10:51:09.277Z,214536502,0\n"
    "1,2014-04-07T10:54:09.868Z,214536500,S\n"
    "2,2014-04-07T13:56:37.614Z,214662742,12\n"
)
BUYS = (
    "420374,2014-04-06T18:44:58.314Z,214537888,12462,1\n420374,2014-04-06T18:44:58.325Z,214537850,10471,1\n"
)
KUAIREC = (
    "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
    "0,3649,13838,10867,2020-07-05 00:08:23.438,20200705,1593878903.438,1.2733965215790926\n"
    "0,9598,13665,10984,2020-07-05 00:13:41.297,20200705,1593879221.297,1.2440823015294975\n"
)
SMALL = KUAIREC + "14,148,4381,6067,,,,0.722103181143894\n"
ZHIHU = "0,1,1525300000,1525300007\n0,2,1525300001,0\n3,1,1525300002,1525300009\n"
FIRST = (
    "12\t2\t5|1525300000|1525300007,6|1525300001|0\t1\tquery|1525300003\n"
    "13\t1\t6|1525300004|1525300005\t0\t\n"
)


def test_yoochoose_clicks_are_read_fast(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("yoochoose-clicks.dat", CLICKS)
    monkeypatch.setattr(delimited, "_read_plain", lambda *_: pytest.fail("read line by line"))
    assert guess_format(path) == guess_format(path.parent) == "yoochoose"
    rows = read_rows(path.parent, "yoochoose")
    assert rows.users.tolist() == [1, 1, 2] and rows.items.tolist() == [214536502, 214536500, 214662742]
    assert rows.timestamps is not None and rows.timestamps[0] == 1396867869.277


def test_yoochoose_is_read_by_the_chunk(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("yoochoose-clicks.dat", CLICKS * 50)
    whole = read_rows(path, "yoochoose")
    monkeypatch.setattr(delimited, "CHUNK", 7)
    chunked = read_rows(path, "yoochoose")
    layout = delimited.Layout(("a", "b", "c", "d"), ("id", "date", "id", "skip"), ",")
    plain, _ = delimited._read_plain(path, layout)
    for name, column in (("users", "a"), ("timestamps", "b"), ("items", "c")):
        assert np.array_equal(getattr(whole, name), getattr(chunked, name))
        assert np.array_equal(getattr(whole, name), plain[column])
    path.write_text(CLICKS * 50 + "3,2014-04-07T10:51:09.277Z,x,0\n")
    with pytest.raises(DataError, match=r"line 151: item 'x' is not a whole number"):
        read_rows(path, "yoochoose")


def test_yoochoose_buys_have_five_fields(write: Write) -> None:
    path = write("yoochoose-buys.dat", BUYS)
    rows = read_rows(path, "yoochoose")
    assert rows.users.tolist() == [420374] * 2 and rows.items.tolist() == [214537888, 214537850]


@pytest.mark.parametrize("form", [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n")])
@pytest.mark.parametrize(
    ("name", "format", "content"),
    [
        ("yoochoose-clicks.dat", "yoochoose", CLICKS),
        ("big_matrix.csv", "kuairec", KUAIREC),
        ("inter_impression.csv", "zhihu", ZHIHU),
        ("zhihu1M.txt", "zhihu", FIRST),
    ],
)
def test_a_byte_order_mark_and_windows_lines_change_nothing(
    form: Callable[[str], str], name: str, format: str, content: str, write: Write
) -> None:
    plain, other = read_rows(write(name, content), format), read_rows(write(name, form(content)), format)
    for column in ("users", "items", "timestamps"):
        assert np.array_equal(getattr(plain, column), getattr(other, column))


def test_kuairec_keeps_the_watch_ratio_and_drops_rows_without_a_time(write: Write) -> None:
    path = write("small_matrix.csv", SMALL)
    assert guess_format(path) == "kuairec"
    rows = read_rows(path, "kuairec")
    assert rows.users.tolist() == [0, 0] and rows.items.tolist() == [3649, 9598]
    assert rows.ratings is not None and rows.ratings[0] == 1.2733965215790926
    assert rows.timestamps is not None and rows.timestamps.tolist() == [1593878903.438, 1593879221.297]
    assert rows.dropped == {"a time": 1}
    big = read_rows(
        write("big_matrix.csv", KUAIREC).parent, "kuairec"
    )  # in a folder with both, the big matrix
    assert not big.dropped and len(big) == 2


def test_zhihu_keeps_the_clicks(write: Write) -> None:
    path = write("inter_impression.csv", ZHIHU)
    assert guess_format(path.parent) == "zhihu"
    rows = read_rows(path, "zhihu")
    assert rows.users.tolist() == [0, 3] and rows.items.tolist() == [1, 1] and rows.dropped == {"a click": 1}
    assert rows.timestamps is not None and rows.timestamps.tolist() == [1525300007.0, 1525300009.0]


def test_zhihus_first_release_has_the_same_rows(write: Write) -> None:
    path = write("zhihu1M.txt", FIRST + "\n")
    assert guess_format(path) == "zhihu"
    rows = read_rows(path, "zhihu")
    assert (
        rows.users.tolist() == [12, 13] and rows.items.tolist() == [5, 6] and rows.dropped == {"a click": 1}
    )
    assert rows.timestamps is not None and rows.timestamps.tolist() == [1525300007.0, 1525300005.0]


BAD = [
    (
        "yoochoose-clicks.dat",
        CLICKS.replace("10:54:09.868Z", "yesterday"),
        r"line 2: timestamp .* is not a date",
    ),
    ("yoochoose-clicks.dat", CLICKS.replace("214662742", "-1"), r"line 3: item '-1' is negative"),
    ("yoochoose-clicks.dat", CLICKS.replace(",12\n", "\n"), r"line 3: expected 'session,time,item,category'"),
    ("yoochoose-clicks.dat", CLICKS.replace(",S", ",S,1"), r"line 2: expected .*\(4 fields\).*\(5\)"),
    ("yoochoose-clicks.dat", CLICKS[:-12], r"line 3: expected .*\(3\)\. Is the file truncated\?"),
    ("yoochoose-clicks.dat", CLICKS.replace(",", ";"), r"line 1: .*Separated by ';'\?"),
    ("yoochoose-clicks.dat", b"7z\xbc\xaf'\x1c\0\4", "binary data"),
    (
        "yoochoose-buys.dat",
        BUYS.replace("10471,", ""),
        r"line 2: expected 'session,time,item,price,quantity'",
    ),
    (
        "big_matrix.csv",
        KUAIREC.replace("watch_ratio", "ratio"),
        "line 1: no column 'watch_ratio'; KuaiRec's are",
    ),
    (
        "big_matrix.csv",
        KUAIREC.replace("9598", "9598.5"),
        r"line 3: video_id '9598\.5' is not a whole",
    ),
    ("big_matrix.csv", KUAIREC.replace("1593879221.297", "x"), r"line 3: timestamp 'x' is not a number"),
    (
        "big_matrix.csv",
        KUAIREC.replace("1.2440823015294975", "inf"),
        r"line 3: watch_ratio 'inf' is not a number",
    ),
    ("big_matrix.csv", KUAIREC.replace("1.2440823015294975", ""), r"line 3: watch_ratio is empty"),
    ("big_matrix.csv", KUAIREC[:-30], r"line 3: expected .*truncated"),
    ("inter_impression.csv", ZHIHU.replace("0,2,", "0,2.5,"), r"line 2: answer '2\.5' is not a whole number"),
    ("inter_impression.csv", ZHIHU.replace("1525300009", ""), r"line 3: clicked is empty"),
    ("inter_impression.csv", ZHIHU[:-12], r"line 3: expected .*\(3\)"),
    ("inter_impression.csv", "0,1,1525300000,0\n", "none of the 1 answers shown was clicked"),
    ("zhihu1M.txt", FIRST.replace("13\t1\t", "13\t2\t"), r"line 2: 2 answers are stated, 1 are there"),
    (
        "zhihu1M.txt",
        FIRST.replace("6|1525300004|1525300005", "6|1525300004"),
        r"line 2: expected 'answer\|shown",
    ),
    ("zhihu1M.txt", FIRST.replace("12\t", "x\t"), r"line 1: 'x' is not a whole number"),
    ("zhihu1M.txt", FIRST + "14", r"line 3: expected 'user<tab>n<tab>.*\(1 fields\)"),
]
FORMATS = {"yoochoose": "yoochoose", "big_matri": "kuairec", "inter_imp": "zhihu", "zhihu1M.t": "zhihu"}


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_bad_files_are_named_with_line_and_rule(
    name: str, content: str | bytes, message: str, write: Write
) -> None:
    path = write(name, content)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path, FORMATS[name[:9]])
    assert str(path) in str(caught.value)


events = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 10**9), st.integers(10**12, 2 * 10**12)),
    min_size=1,
    max_size=20,
)


@settings(max_examples=50)
@given(
    events,
    st.sampled_from(["yoochoose-clicks.dat", "yoochoose-buys.dat", "inter_impression.csv", "zhihu1M.txt"]),
)
def test_logs_are_read_as_written(log: list[tuple[int, int, int]], name: str) -> None:
    lines = []
    for user, item, millis in log:
        moment = np.datetime64(millis, "ms")
        lines.append(
            {
                "yoochoose-clicks.dat": f"{user},{moment}Z,{item},S\n",
                "yoochoose-buys.dat": f"{user},{moment}Z,{item},100,1\n",
                "inter_impression.csv": f"{user},{item},{millis // 1000 - 5},{millis // 1000}\n",
                "zhihu1M.txt": f"{user}\t1\t{item}|{millis // 1000 - 5}|{millis // 1000}\t0\t\n",
            }[name]
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text("".join(lines))
        rows = read_rows(path, guess_format(path))
    assert rows.users.tolist() == [user for user, _, _ in log]
    assert rows.items.tolist() == [item for _, item, _ in log]
    assert rows.timestamps is not None
    exact = name.startswith("yoochoose")
    assert rows.timestamps.tolist() == [t / 1000 if exact else t // 1000 for _, _, t in log]


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 9),
            st.integers(0, 9),
            st.none() | st.floats(1.5e9, 1.7e9),
            st.floats(0, 600, allow_subnormal=False),
        ),
        min_size=1,
    )
)
def test_kuairec_is_read_as_written(log: list[tuple[int, int, float | None, float]]) -> None:
    lines = [KUAIREC.splitlines()[0]]
    for user, video, time, ratio in log:
        when = ",," if time is None else f"2020-07-05 00:08:23.438,20200705,{time!r}"
        lines.append(f"{user},{video},1,2,{when},{ratio!r}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small_matrix.csv"
        path.write_text("\n".join(lines))
        rows = read_rows(path, "kuairec")
    kept = [row for row in log if row[2] is not None]
    for n, values in enumerate((rows.users, rows.items, rows.timestamps, rows.ratings)):
        assert values is not None and values.tolist() == [row[n] for row in kept]
    assert sum(rows.dropped.values()) == len(log) - len(kept)
