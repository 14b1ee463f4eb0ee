"""Ids stay as the source writes them, in every text format."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refit_env.data import Dataset, Interactions, load_dataset
from refit_env.data.ids import IdMap, id_column, join_ids, parse_id
from refit_env.data.prepare import prepare
from refit_env.data.readers import delimited
from refit_env.data.readers.delimited import Layout, read_delimited
from refit_env.data.readers.formats import read_rows
from refit_env.data.recipe import Recipe
from refit_env.data.tables import read_source_ids
from refit_env.errors import DataError

Write = Callable[[str, str | bytes], Path]
KUAIREC = "user_id,video_id,timestamp,watch_ratio\n"
VENUE = "4bf58dd8d48988d16d941735\tCafé\t40.7\t-74.0\t-240\tTue Apr 03 18:00:09 +0000 2012\n"

FILES = {
    "u.data": {"u.data": "007\t0108775000\t3\t9\n7\t5\t3\t9\n"},
    "ratings.dat": {"ratings.dat": "007::0108775000::3::9\n7::5::3::9\n"},
    "csv": {"ratings.csv": "user,item\n007,0108775000\n7,5\n"},
    "csv quoted": {"ratings.csv": 'user,item,note\n"007","0108775000","a, b"\n"7","5",c\n'},
    "csv with blanks": {"ratings.csv": "user,item\n 007 , 0108775000\n7,5\n"},
    "inter": {
        "shop.train.inter": "user_id:token\titem_id:token\n007\t0108775000\n",
        "shop.test.inter": "user_id:token\titem_id:token\n7\t5\n",
    },
    "kuairec": {"big_matrix.csv": f"{KUAIREC}007,0108775000,9,1.5\n7,5,9,1.5\n"},
    "yoochoose": {
        "yoochoose-clicks.dat": "007,2014-04-07T10:51:09.277Z,0108775000,0\n7,2014-04-07T10:51:09.277Z,5,0\n"
    },
    "zhihu": {"inter_impression.csv": "007,0108775000,1,9\n7,5,1,9\n"},
    "zhihu 1M": {"zhihu1M.txt": "007\t1\t0108775000|1|9\t0\t\n7\t1\t5|1|9\t0\t\n"},
    "lbsn": {
        "train.txt": "USER_007\tLOC_0108775000\t1.3,103.8\t04:12\t0\n",
        "tune.txt": "USER_7\tLOC_5\t1.3,103.8\t04:12\t0\n",
        "test.txt": "USER_7\tLOC_5\t1.3,103.8\t04:12\t0\n",
    },
    "tsmc2014": {"dataset_TSMC2014_NYC.txt": f"007\t0108775000\t{VENUE}7\t5\t{VENUE}"},
}


@pytest.mark.parametrize("case", FILES)
def test_leading_zeros_stay_in_every_text_format(case: str, write: Write) -> None:
    for name, content in FILES[case].items():
        path = write(name, content)
    rows = read_rows(path.parent if len(FILES[case]) > 1 else path, case.split(" ")[0])
    assert rows.users.tolist()[:2] == ["007", "7"]
    assert rows.items.tolist()[:2] == ["0108775000", "5"]


@pytest.mark.parametrize("case", sorted(FILES.keys() - {"inter", "lbsn", "zhihu 1M"}))
def test_a_leading_zero_is_found_by_the_fast_reader(
    case: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "_read_plain", lambda *_: pytest.fail("read line by line"))
    test_leading_zeros_stay_in_every_text_format(case, write)


def test_two_items_that_differ_in_zeros_alone_stay_two(write: Write, tmp_path: Path) -> None:
    items = ["7", "007", "0108775000", *map(str, range(10, 20))]
    rows = [f"{user},{item}" for user in ("01", "1", "001") for item in items]
    path = write("ratings.csv", "user,item\n" + "\n".join(rows))
    prepare("shop", path, Recipe(), tmp_path / "shop")
    data = load_dataset(tmp_path / "shop")
    assert data.user_ids is not None and data.user_ids.tolist() == ["001", "01", "1"]
    assert data.item_ids is not None and data.item_ids.tolist() == sorted(items)


def test_a_zero_in_a_later_chunk_makes_the_whole_column_text(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "CHUNK", 2)
    layout = Layout(("user", "item"), ("id", "id"), "\t")
    path = write("file", "1\t2\n3\t4\n5\t6\n7\t08\n")
    for columns in (read_delimited(path, layout), delimited._read_plain(path, layout)[0]):
        assert columns["user"].dtype == np.int64 and columns["user"].tolist() == [1, 3, 5, 7]
        assert columns["item"].tolist() == ["2", "4", "6", "08"]


def test_numbers_of_a_published_order_have_no_leading_zeros(write: Write) -> None:
    write("test.txt", "0 1\n")
    for word, rule in (
        ("007", "has a leading zero"),
        ("+7", "is not a whole number"),
        ("1_0", "is not a w"),
    ):
        path = write("train.txt", f"0 1\n1 {word}\n")
        with pytest.raises(DataError, match=rf"train\.txt line 2: id '{re.escape(word)}' {rule}"):
            read_rows(path.parent, "lightgcn")


@pytest.mark.parametrize("sign", ["+7", "-7"])
def test_an_id_has_no_sign(sign: str, write: Write) -> None:
    with pytest.raises(DataError, match=rf"line 2: item '\{sign}' is"):
        read_rows(write("u.data", f"1\t7\t3\t9\n1\t{sign}\t3\t9\n"), "u.data")


@given(st.lists(st.from_regex(r"\A[0-9]{1,12}\Z"), min_size=1, max_size=6))
def test_a_column_of_ids_restores_the_text_it_was_read_from(texts: list[str]) -> None:
    column = id_column([parse_id(text) for text in texts])
    assert [str(value) for value in column] == texts
    joined = join_ids([id_column([parse_id(text)]) for text in texts])
    assert [str(value) for value in joined] == texts


def test_ids_map_to_numbers_and_back() -> None:
    users = IdMap("user", 3, np.array(["7", "007", "user-9"], dtype=object), "shop")
    assert [users.number(users.of(n)) for n in range(3)] == [0, 1, 2]
    assert users.take([[2, 0]]).tolist() == [["user-9", "7"]] and len(users) == 3 and users.known
    numbers = IdMap("item", 2, np.array([30, 10]), "shop")
    assert numbers.number("10") == numbers.number(10) == 1 and numbers.of(0) == 30
    assert type(numbers.of(0)) is int and numbers.named(0) == "item 30 (number 0)"
    for wrong in ("010", " 10", "+10", "0"):
        with pytest.raises(ValueError, match="unknown item"):
            numbers.number(wrong)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "USER-17",
            r"unknown user 'USER-17'\. Did you mean 'user-17'\? 'shop' has 300 users, from 'user-0' to",
        ),
        ("user-0017", "Did you mean 'user-17'"),
        ("usr-17", "Did you mean 'user-17'"),
        ("x" * 99, rf"unknown user '{'x' * 40}'\.\.\.\. 'shop' has"),
    ],
)
def test_an_unknown_id_gets_a_suggestion_and_the_number_of_ids(given: str, message: str) -> None:
    users = IdMap("user", 300, np.array([f"user-{n}" for n in range(300)], dtype=object), "shop")
    with pytest.raises(ValueError, match=message):
        users.number(given)


def test_zeros_alone_make_a_suggestion() -> None:
    with pytest.raises(ValueError, match=r"unknown item '7'\. Did you mean '007'"):
        IdMap("item", 2, np.array(["007", "12"], dtype=object), "shop").number("7")


def test_without_ids_of_the_source_the_numbers_are_the_ids() -> None:
    users = IdMap("user", 5, None, "shop")
    assert users.number("4") == 4 and users.of(4) == 4 and users.named(4) == "user 4" and not users.known
    for wrong in ("5", "-1", "04", "x", "9" * 30):
        with pytest.raises(ValueError, match=r"must lie in 0\.\.4; 'shop' keeps no ids of its source"):
            users.number(wrong)


def test_rows_have_the_id_of_their_session() -> None:
    pairs = Interactions.from_pairs([0, 0, 0, 1, 1], [4, 2, 3, 1, 0], num_users=2, num_items=5)
    none = Interactions.from_pairs([], [], num_users=2, num_items=5)
    ids = np.array(["ann", "bob"], dtype=object)
    shop = Dataset("shop", "sequential", pairs, none, none, time_ordered=True, user_ids=ids)
    rows = shop.episodes.users_by_id
    assert rows.take([0, 1, 2]).tolist() == ["ann", "ann", "bob"] and rows.number("bob") == 2
    assert rows.named(1) == "user 'ann' (row 1)"
    with pytest.raises(ValueError, match="'shop' has 2 users, from 'ann' to 'bob'"):
        rows.number("zoe")
    with pytest.raises(ValueError, match=r"user 'ann' has 2 rows in 'shop'; choose one by number, 0, 1"):
        rows.number("ann")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 1, 2, 3], r"user_ids\.parquet row 1: the id 1 appears twice"),
        (["a", "b", "b", "c"], r"user_ids\.parquet row 2: the id 'b' appears twice"),
        (["a", None, "b", "c"], r"user_ids\.parquet row 1: id is None, expected text"),
        (
            [0.5, 1.5, 2.5, 3.5],
            r"user_ids\.parquet: column 'id' is float64, expected numbers or text",
        ),
    ],
)
def test_tables_of_ids_are_checked(ids: list[object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "user_ids.parquet"
    pd.DataFrame({"id": ids}).to_parquet(path)
    with pytest.raises(DataError, match=message):
        read_source_ids(path, 4)
