from __future__ import annotations

import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refit_env.data.readers import delimited
from refit_env.data.readers.delimited import Layout, read_delimited
from refit_env.data.readers.file_lookup import named
from refit_env.data.readers.formats import FORMATS, guess_format, read_rows
from refit_env.data.readers.header_tables import ReadOptions
from refit_env.data.recipes import choose_recipe
from refit_env.errors import DataError

Write = Callable[[str, str | bytes], Path]
TABS = Layout(("user", "item", "rating", "timestamp"), ("id", "id", "number", "number"), "\t")


def npy(values: Any) -> bytes:
    buffer = BytesIO()
    np.save(buffer, np.asarray(values), allow_pickle=True)
    return buffer.getvalue()


def test_u_data(write: Write) -> None:
    rows = read_rows(write("u.data", "196\t242\t3\t881250949\n186\t302\t3.5\t891717742\n"), "u.data")
    assert rows.users.tolist() == [196, 186] and rows.items.tolist() == [242, 302]
    assert rows.ratings is not None and rows.ratings.tolist() == [3.0, 3.5]
    assert rows.timestamps is not None and rows.timestamps.tolist() == [881250949.0, 891717742.0]


def test_ratings_dat(write: Write) -> None:
    path = write(
        "ratings.dat", "1::1193::5::978300760\r\n1::661::3::978302109\r\n"
    )  # as in the published file
    rows = read_rows(path.parent, "ratings.dat")
    assert rows.items.tolist() == [1193, 661] and rows.ratings is not None and rows.ratings.tolist() == [5, 3]


def test_diffrec(write: Write) -> None:
    for split, pairs in (("train", [[0, 1], [0, 2]]), ("valid", [[0, 3]]), ("test", [[1, 0]])):
        path = write(f"{split}_list.npy", npy(np.array(pairs, dtype=np.int32)))
    rows = read_rows(path.parent, "diffrec")
    assert rows.items.tolist() == [1, 2, 3, 0]
    assert rows.split is not None and rows.split.tolist() == [0, 0, 1, 2]


def test_lightgcn(write: Write) -> None:
    write("train.txt", "0 5 6 7\n1 8 \n2\n")  # a user without items has no row
    rows = read_rows(write("test.txt", "0 9\n").parent, "lightgcn")
    assert rows.users.tolist() == [0, 0, 0, 1, 0] and rows.items.tolist() == [5, 6, 7, 8, 9]
    assert rows.split is not None and rows.split.tolist() == [0, 0, 0, 0, 2]


def test_recbole_by_its_header(write: Write) -> None:
    text = "item_id:token\tuser_id:token\tage:float\ttimestamp:float\n5\t1\t\t10.5\n6\t2\t1\t11\n"
    rows = read_rows(write("shop.inter", text), "inter")
    assert rows.users.tolist() == [1, 2] and rows.items.tolist() == [5, 6] and rows.users.dtype == np.int64
    assert rows.ratings is None and rows.timestamps is not None and rows.timestamps.tolist() == [10.5, 11]


def test_recbole_tokens_need_not_be_numbers(write: Write) -> None:
    path = write("shop.inter", "user_id:token\titem_id:token\nA1\tx\nB2\ty\n")
    with pytest.raises(DataError, match=r"line 2: user 'A1' is not a whole number.*token_ids=True accepts"):
        read_rows(path, "inter")
    rows = read_rows(path, "inter", ReadOptions(token_ids=True))
    assert rows.users.tolist() == ["A1", "B2"]


def test_recbole_benchmark_files_are_split(write: Write) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        path = write(f"shop.{split}.inter", f"user_id:token\titem_id:token\n1\t{number}\n")
    rows = read_rows(path.parent, "inter")
    assert rows.split is not None and rows.split.tolist() == [0, 1, 2] and rows.items.tolist() == [0, 1, 2]


def test_csv_finds_the_usual_names_and_accepts_others(write: Write) -> None:
    path = write(
        "ratings.csv", 'movieId,userId,"note, or none",rating,timestamp\n7,1,"a, b",4.5,2020-01-02\n'
    )
    rows = read_rows(path, "csv")
    assert (rows.users[0], rows.items[0]) == (1, 7)
    assert rows.timestamps is not None and rows.timestamps[0] == 1577923200.0  # a date is UTC
    rows = read_rows(path, "csv", ReadOptions(columns={"user": "movieId", "item": "userId"}))
    assert (rows.users[0], rows.items[0]) == (7, 1)


def test_csv_with_text_ids_other_separator_and_split(write: Write) -> None:
    path = write("log.csv", "user;item;split\nann;b-1;train\nbob;b-2;Test\n")
    rows = read_rows(path, "csv", ReadOptions(separator=";", token_ids=True))
    assert rows.users.tolist() == ["ann", "bob"] and rows.items.tolist() == ["b-1", "b-2"]
    assert rows.split is not None and rows.split.tolist() == [0, 2]


BAD_LINES = [
    ("u.data", "1\t2\t3\t4\n1\t2\n", r"line 2: expected .*found '1\\t2' \(2\)\. Is the file truncated"),
    ("u.data", "1\t2\t3\t4\n1\t2\t3\t4\t5\n", r"line 2: expected .*4 fields.*\(5\)"),
    ("u.data", "1\t2\t3\t4\n1\t2\t3\t4\t5\t6\n", r"line 2: expected .*4 fields.*\(6\)"),
    ("u.data", "1,2,3,4\n", r"line 1: .*Separated by ','"),
    ("u.data", "1::2::3::4\n", r"line 1: .*Separated by '::'"),
    ("u.data", "1\t2\t3\t4\n-1\t2\t3\t4\n", r"line 2: user '-1' is negative"),
    ("u.data", "1\t2\t3\t4\n\n1\t2.5\t3\t4\n", r"line 3: item '2\.5' is not a whole number"),
    ("u.data", "1\tx\t3\t4\n", r"line 1: item 'x' is not a whole number"),
    ("u.data", "1\t2\tnan\t4\n", r"line 1: rating 'nan' is not a number; a missing value is an empty field"),
    ("u.data", "1\t2\t\t4\n", r"line 1: rating is empty"),
    ("u.data", "1\t2\t3\tinf\n", r"line 1: timestamp 'inf' is not a number"),
    ("u.data", "1\t99999999999999999999\t3\t4\n", r"line 1: item .* does not fit 64 bits"),
    ("u.data", "\n \n", "is empty"),
    ("u.data", b"1\t2\t3\t4\n\xff\xfe\t2\t3\t4\n", "not UTF-8"),
    ("u.data", b"\x00\x01binary", "binary data"),
    ("u.data", b"PK\x03\x04rest", "a zip archive; unpack it"),
    ("u.data", pickle.dumps([(1, 2, 3, 4)]), "this is a pickle"),
    (
        "ratings.dat",
        "1::2::3::4\n12,55,4,978\n",
        r"line 2: expected 'user::item::rating::timestamp'.*Separated by ','",
    ),
    ("ratings.dat", "1::2::3::4\n1:2::3::4\n", r"line 2: expected .*found '1:2::3::4' \(3\)"),
    ("ratings.dat", "1::2::3::4\n1::2::3::4::5\n", r"line 2: expected .*\(5\)"),
    ("lightgcn/train.txt", "0 1 2\n1 2 -3\n", r"train.txt line 2: id '-3' is negative"),
    ("lightgcn/train.txt", "0 1\n1 2.0\n", r"train.txt line 2: id '2.0' is not a whole number"),
    ("lightgcn/train.txt", "0,1,2\n", r"line 1: id '0,1,2' is not a whole number.*separated by spaces"),
    ("lightgcn/train.txt", "0 99999999999999999999\n", "does not fit 64 bits"),
    ("lightgcn/train.txt", "0 " + "9" * 5000 + "\n", "line 1: .*does not fit 64 bits"),
    (
        "ratings.csv",
        "user,item," + ",".join(f"c{n}" for n in range(1000)) + "\n",
        "1002 columns; at most 1000",
    ),
    ("ratings.csv", '"user,item\n1,2\n', "line 1: unexpected end"),
    (
        "ratings.csv",
        ",".join("c" * 300 for _ in range(99)) + "\n1,2\n",
        "line 1: a column name appears twice",
    ),
    (
        "ratings.csv",
        "user,item," + ",".join(f"{n}" * 99 for n in range(9)) + "\n1,2\n",
        r"\.\.\.'.*found '1,2'",
    ),
    ("shop.inter", "user_id\titem_id:token\n1\t2\n", r"line 1: 'user_id' has no type"),
    ("shop.inter", "user_id:token,item_id:token\n1,2\n", "line 1"),
    ("ratings.csv", "user,item\n1,2\n1\n", r"line 3: expected 'user,item' \(2 fields\), found '1' \(1\)"),
    ("ratings.csv", "user,item,note\n1,2,x\n3,4\n", r"line 3: expected 'user,item,note' .*\(2\)"),
    ("ratings.csv", "user:item\n1:2\n", r"line 1: which column is the user\? It has user:item; .*separator"),
    ("ratings.csv", "user,item,item\n1,2,3\n", "appears twice"),
    ("ratings.csv", "user,item\n", "no rows"),
    ("ratings.csv", 'user,item\n1,"2\n', "line"),
    (
        "ratings.csv",
        "user,item,timestamp\n1,2,yesterday\n",
        r"line 2: timestamp 'yesterday' is not a date; write it as 2011-04-03, ",
    ),
    *(
        (
            "ratings.csv",
            f"user,item,timestamp\n1,2,{date}\n",
            f"'{date}' is not a date: day and month .*; ignore leaves",
        )
        for date in ("03/04/2011", "3.4.11", "03-04-2011", "03/04/2011 18:00")
    ),
    (
        "ratings.csv",
        "user,item,timestamp\n1,2,1500000000\n1,3,2011-04-03\n",
        r"line 3: timestamp '2011-04-03' is a date, not a number",
    ),
    (
        "ratings.csv",
        b"user,item,note\n" + b"1,2,a\n" * 1999 + b"1,2,caf\xe9\n",
        r"line 2001, byte 8: not UTF-8 text; save the file as UTF-8",
    ),
    ("ratings.dat", b"1::2::3::4\n1::\xff::3::4\n", r"line 2, byte 4: not UTF-8 text"),
    (
        "ratings.csv",
        "user,item,split\n1,2,train\n1,3,later\n",
        "split is 'later', expected train, valid or test",
    ),
    ("ratings.csv", "user,item\n,2\n", r"line 2: user is empty; drop_blank=True drops such rows"),
    ("ratings.csv", "user,item\n,\n", r"line 2: user is empty; drop_blank=True drops such rows"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_LINES)
def test_bad_files_are_named_with_line_and_rule(
    name: str, content: str | bytes, message: str, write: Write
) -> None:
    path = write(name, content)
    if name.startswith("lightgcn"):
        write("lightgcn/test.txt", "0 1\n")
        path = path.parent
    format = {"u.data": "u.data", "ratings.dat": "ratings.dat", "shop.inter": "inter", "ratings.csv": "csv"}
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path, format.get(name, "lightgcn"))
    assert Path(name).name in str(caught.value) and len(str(caught.value)) < 500


class Trap:
    """Records whether it was unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Trap, "sprung", True))


def headed(header: bytes) -> bytes:
    """Return an array file that has only a header."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


PAIRS = b"{'descr': '<i8', 'fortran_order': False, 'shape': %s}"
BAD_ARRAYS = [
    (npy([[0, 1], [2, -1]]), r"row 1: item -1 is not a whole number"),
    (npy([[0, 1.5]]), r"row 0: item 1\.5 is not a whole number"),
    (npy([[np.nan, 1]]), r"row 0: user nan"),
    (npy([0, 1]), r"shape \(n, 2\), found \(2\)"),
    (npy([["0", "1"]]), "expected whole numbers"),
    (npy([[0, 1], [1, 2]])[:-3], "not a whole NumPy array"),
    (npy([[0, 1], [1, 2]]) + b"more", "not a whole NumPy array"),
    (npy([[0, 1]]).replace(b"(1, 2)", b"(9" + b"9" * 12 + b", 2)"), "not a whole NumPy array"),
    (
        headed(b"{'descr': '<i8', 'fortran_order': False, 'shape': (%s, 2)}" % (b"9" * 500)),
        "far too many rows",
    ),
    (
        headed(b"{'descr': '<i8', 'fortran_order': False, 'shape': (%s)}" % (b"2, " * 1000)),
        r"found \(2, 2.*\.\.\.",
    ),
    (headed(b"(" * 5000), "not a whole NumPy array"),
    (headed(b"{'descr': '<i8', 'fortran_order': False, 'shape': (-1, 2)}"), "not a whole NumPy array"),
    (b"\x93NUMPY\x09\x09", "not a whole NumPy array"),
    (b"", "not a whole NumPy array"),
    (npy(np.array([[Trap(), 1]], dtype=object)), "expected whole numbers, found object"),
    (pickle.dumps(Trap()), "this is a pickle"),
]


@pytest.mark.parametrize(("content", "message"), BAD_ARRAYS)
def test_bad_arrays_are_named_and_never_unpickled(content: bytes, message: str, write: Write) -> None:
    write("valid_list.npy", npy([[0, 1]]))
    write("test_list.npy", npy([[0, 1]]))
    path = write("train_list.npy", content)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path.parent, "diffrec")
    assert "train_list.npy" in str(caught.value) and len(str(caught.value)) < 500
    assert not Trap.sprung


def test_missing_files_and_unknown_formats(tmp_path: Path, write: Write) -> None:
    write("readme.md", "hello")
    for format in FORMATS:
        with pytest.raises(DataError, match=str(tmp_path)):
            read_rows(tmp_path, format)
        with pytest.raises(DataError, match="no such file or folder"):
            read_rows(tmp_path / "nowhere", format)
    with pytest.raises(ValueError, match="Did you mean 'lightgcn'"):
        read_rows(tmp_path, "lightgcm")
    with pytest.raises(DataError, match="cannot guess the format"):
        guess_format(tmp_path)
    write("a.inter", "x"), write("b.inter", "x")
    with pytest.raises(DataError, match="more than one"):
        read_rows(tmp_path, "inter")


def test_columns_that_are_not_there(write: Write) -> None:
    path = write("ratings.csv", "user,item\n1,2\n")
    with pytest.raises(DataError, match="no column 'visitor' for user; it has user, item"):
        read_rows(path, "csv", ReadOptions(columns={"user": "visitor"}))
    with pytest.raises(ValueError, match="Did you mean 'user'"):
        read_rows(path, "csv", ReadOptions(columns={"usr": "user"}))
    with pytest.raises(DataError, match="columns names 'user' for user and item; one role each"):
        read_rows(path, "csv", ReadOptions(columns={"user": "user", "item": "user"}))


@pytest.mark.parametrize(
    ("files", "format"),
    [
        (("u.data", "u.item"), "u.data"),
        (("ratings.dat", "movies.dat"), "ratings.dat"),
        (("train_list.npy",), "diffrec"),
        (("train.txt", "test.txt"), "lightgcn"),
        (("shop.inter", "shop.item"), "inter"),
        (("ratings.csv",), "csv"),
    ],
)
def test_the_format_is_guessed_from_the_names(files: tuple[str, ...], format: str, write: Write) -> None:
    paths = [write(name, "x") for name in files]
    assert guess_format(paths[0].parent) == format == guess_format(paths[0])


@pytest.mark.parametrize(
    ("name", "text", "format"),
    [
        ("RATINGS.CSV", "user,item\n1,2\n", "csv"),
        ("Log.Csv", "user,item\n1,2\n", "csv"),
        ("LOG.TSV", "user\titem\tnote\n1\t2\ta,b\n", "csv"),
        ("U.DATA", "1\t2\t3\t881250949\n", "u.data"),
        ("Ratings.DAT", "1::2::3::978300760\n", "ratings.dat"),
        ("YooChoose-Clicks.DAT", "1,2014-04-07T10:51:09.277Z,2,0\n", "yoochoose"),
        ("SHOP.INTER", "user_id:token\titem_id:token\n1\t2\n", "inter"),
    ],
)
def test_names_in_capitals_are_known(name: str, text: str, format: str, write: Write) -> None:
    path = write(name, text)
    for source in (path, path.parent):
        assert guess_format(source) == format
        rows = read_rows(source, format)
        assert rows.users.tolist() == [1] and rows.items.tolist() == [2]


def test_splits_and_official_files_in_capitals_are_found(write: Write) -> None:
    for split in ("TRAIN", "TEST"):
        folder = write(f"{split}.TXT", "0 1 2\n").parent
    assert guess_format(folder) == "lightgcn" and len(read_rows(folder, "lightgcn")) == 4
    recipe = choose_recipe("gowalla", folder)
    assert recipe is not None and recipe.name == "lightgcn" and recipe.source_in("gowalla", folder) == folder
    exact = write("train.txt", "0 1\n")
    assert named(folder, ["train.txt"]) == exact and named(folder, ["valid.txt"]) is None


SUSPICIOUS = "+3 1_0 1e3 nan NA None 0x1 12abc \u0663 2020-01-02 1e . +.5 5. 1e999 -inf True 1d3 0012".split()
words = st.one_of(
    st.integers(-2, 10**20).map(str),
    st.floats().map(str),
    st.sampled_from(["", " 7", "'1'", '"1"', "1 2", "\uff11", *SUSPICIOUS]),
)


@settings(max_examples=300)
@example([["0", "0", "0", "0", ""]], "\t")
@example([["1", "2", "3", "4"], ["0", "0", "0", "0", ""]], "::")
@given(
    st.lists(st.lists(words, min_size=3, max_size=5), min_size=1, max_size=4),
    st.sampled_from(["\t", "::", ","]),
)
def test_the_fast_reader_refuses_all_that_the_slow_one_refuses(rows: list[list[str]], separator: str) -> None:
    import tempfile

    layout = Layout(TABS.names, TABS.kinds, separator, quoted=separator == ",")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_text("\n".join(separator.join(row) for row in rows), encoding="utf-8")
        try:
            fast = delimited._read_fast(path, layout)
        except DataError:
            return
        if fast is not None:
            plain, _ = delimited._read_plain(path, layout)
            assert all(np.array_equal(fast[name], plain[name]) for name in layout.names)


def test_decimals_are_read_to_the_last_bit(write: Write) -> None:
    """Both readers parse numbers as Python does, so a data set is the same on every processor."""
    rng = np.random.default_rng(0)
    numbers = [float(x) for x in 10.0 ** rng.uniform(-30, 30, 3000)] + [
        1593878903.438,
        2.2250738585072014e-308,
    ]
    path = write("file", "".join(f"1\t2\t{number!r}\t3\n" for number in numbers))
    fast = delimited._read_fast(path, TABS)
    assert fast is not None and fast["rating"].tolist() == numbers
    assert delimited._read_plain(path, TABS)[0]["rating"].tolist() == numbers


def test_a_whole_file_is_read_fast(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "_read_plain", lambda *_: pytest.fail("read line by line"))
    for separator in ("\t", "::", ","):
        layout = Layout(TABS.names, TABS.kinds, separator)
        path = write("file", "\n".join(separator.join(("1", "2", "3.5", "4")) for _ in range(3)) + "\n")
        assert read_delimited(path, layout)["rating"].tolist() == [3.5] * 3
