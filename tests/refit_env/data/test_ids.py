"""Ids stay as the source writes them, in every format of text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refit_env.data import delimited, load_dataset
from refit_env.data.delimited import Layout, read_delimited
from refit_env.data.ids import id_column, join_ids, parse_id
from refit_env.data.prepare import prepare
from refit_env.data.readers import read_rows
from refit_env.data.recipe import Recipe
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
def test_leading_zeros_stay_in_every_format_of_text(case: str, write: Write) -> None:
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
    test_leading_zeros_stay_in_every_format_of_text(case, write)


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
    for read in (read_delimited, delimited._read_plain):
        columns = read(path, layout)
        assert columns["user"].dtype == np.int64 and columns["user"].tolist() == [1, 3, 5, 7]
        assert columns["item"].tolist() == ["2", "4", "6", "08"]


def test_numbers_of_a_published_order_have_no_leading_zeros(write: Write) -> None:
    write("test.txt", "0 1\n")
    for word, rule in (("007", "has a leading zero"), ("+7", "is no whole number"), ("1_0", "is no whole")):
        path = write("train.txt", f"0 1\n1 {word}\n")
        with pytest.raises(DataError, match=rf"train\.txt line 2: id '{re.escape(word)}' {rule}"):
            read_rows(path.parent, "lightgcn")


@pytest.mark.parametrize("sign", ["+7", "-7"])
def test_an_id_has_no_sign(sign: str, write: Write) -> None:
    with pytest.raises(DataError, match=rf"line 2: item '\{sign}' is"):
        read_rows(write("u.data", f"1\t7\t3\t9\n1\t{sign}\t3\t9\n"), "u.data")


@given(st.lists(st.from_regex(r"\A[0-9]{1,12}\Z"), min_size=1, max_size=6))
def test_a_column_of_ids_gives_back_the_text_that_it_was_read_from(texts: list[str]) -> None:
    column = id_column([parse_id(text) for text in texts])
    assert [str(value) for value in column] == texts
    joined = join_ids([id_column([parse_id(text)]) for text in texts])
    assert [str(value) for value in joined] == texts
