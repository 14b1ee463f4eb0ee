"""Tests of the academic data set in its published form: one JSON object per line, generated users."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refit_env.data.readers.formats import guess_format, read_rows
from refit_env.errors import DataError

Write = Callable[[str, str | bytes], Path]


def review(user: str, business: str, stars: Any = 4.0, date: Any = "2016-03-09 13:05:00", **more: Any) -> str:
    fields = {"review_id": "r", "user_id": user, "business_id": business, "stars": stars, "useful": 0}
    return json.dumps({**fields, "text": "Good.\nVery \u00e9!", "date": date, **more}) + "\n"


def user(name: str, friends: Any) -> str:
    return json.dumps({"user_id": name, "name": "Ann", "elite": "", "friends": friends, "fans": 2}) + "\n"


def put(write: Write, reviews: str | bytes, users: str | bytes = "") -> Path:
    write("yelp_academic_dataset_user.json", users or user("ann-1", "None"))
    return write("yelp_academic_dataset_review.json", reviews).parent


def test_reviews_and_friends(write: Write) -> None:
    reviews = review("ann-1", "cafe") + review("bob-2", "bar", 2, "2018-07-07") + review("ann-1", "bar", 5)
    users = user("ann-1", "bob-2, zoe-9, bob-2") + user("zoe-9", "ann-1") + user("bob-2", ["ann-1"])
    folder = put(write, reviews, users)
    assert guess_format(folder) == "yelp"
    rows = read_rows(folder, "yelp")
    assert rows.users.tolist() == ["ann-1", "bob-2", "ann-1"] and rows.items.tolist() == [
        "cafe",
        "bar",
        "bar",
    ]
    assert rows.ratings is not None and rows.ratings.tolist() == [4.0, 2.0, 5.0]
    assert rows.timestamps is not None and rows.timestamps[:2].tolist() == [1457528700.0, 1530921600.0]
    assert rows.social is not None  # zoe wrote no review
    assert rows.social.tolist() == [["ann-1", "bob-2"], ["ann-1", "bob-2"], ["bob-2", "ann-1"]]


@pytest.mark.parametrize(
    "form", [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n") + "\n\n"]
)
def test_a_byte_order_mark_and_windows_lines_change_nothing(form: Callable[[str], str], write: Write) -> None:
    rows = read_rows(put(write, form(review("ann-1", "cafe")), form(user("ann-1", "ann-1"))), "yelp")
    assert rows.users.tolist() == ["ann-1"] and rows.social is not None
    assert rows.social.tolist() == [["ann-1", "ann-1"]]


def test_a_yelp_without_friendships(write: Write) -> None:
    rows = read_rows(put(write, review("ann-1", "cafe")), "yelp")
    assert rows.social is not None and rows.social.shape == (0, 2)


GOOD = review("ann-1", "cafe")
BAD: list[tuple[str | bytes, str | bytes, str]] = [
    (GOOD + GOOD[:-20], "", r"review\.json line 2: not a JSON file .*truncated"),
    (GOOD + "[1]\n", "", r"review\.json line 2: must be an object {...}, found a list"),
    (GOOD + '{"x":' * 100_000, "", r"review\.json line 2: .*nested too deeply"),
    (GOOD + "\n" + review("", "cafe"), "", r"line 3: user_id must be text of length >= 1"),
    (review("x" * 1001, "cafe"), "", r"line 1: user_id must be text of length <= 1000"),
    (GOOD.replace("ann-1", "\\ud800"), "", r"line 1: not a JSON file"),
    (review("ann-1", 7), "", r"line 1: business_id must be text, found a whole number"),  # type: ignore[arg-type]
    (review("ann-1", "cafe", "5"), "", r"line 1: stars must be a number, found text"),
    (review("ann-1", "cafe", 5.5), "", r"line 1: stars must be a number <= 5.*"),
    (review("ann-1", "cafe", True), "", r"line 1: stars must be a number"),
    (review("ann-1", "cafe", float("nan")), "", r"line 1: not a JSON file"),
    (review("ann-1", "cafe", date="9 March"), "", r"line 1: 'date' should be a date"),
    (review("ann-1", "cafe", date=None), "", r"line 1: date must be text, found null"),
    (
        GOOD,
        user("ann-1", "None") + user("bob", None),
        r"user\.json line 2: friends must be text or a list, found null",
    ),
    (GOOD, user("ann-1", [1]), r"user\.json line 1: friends.* must be text, found a whole number"),
    (GOOD, '{"friends": "None"}\n', r"user\.json line 1: user_id is missing"),
    (
        GOOD.encode() + b'{"user_id": "\xff"}\n',
        "",
        r"review\.json line 2, byte 14: not UTF-8 text",
    ),
    (b"PK\x03\x04", "", "a zip archive; unpack it first"),
    ("", "", "the file is empty"),
]


@pytest.mark.parametrize(("reviews", "users", "message"), BAD)
def test_bad_files_are_named_with_line_and_rule(
    reviews: str | bytes, users: str | bytes, message: str, write: Write
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_rows(put(write, reviews, users), "yelp")
    assert "yelp_academic_dataset_" in str(caught.value)


def test_a_missing_half_of_the_pair(write: Write) -> None:
    path = write("yelp_academic_dataset_review.json", GOOD)
    with pytest.raises(
        DataError, match=r"no yelp_academic_dataset_user\.json or user\.json; the folder holds"
    ):
        read_rows(path, "yelp")


names = st.text("abcXYZ019-_", min_size=1, max_size=6)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(names, names, st.integers(1, 5), st.integers(1, 2**31)), min_size=1, max_size=15),
    st.dictionaries(names, st.lists(names, max_size=4), max_size=5),
    st.booleans(),
)
def test_json_lines_are_read_as_written(
    log: list[tuple[str, str, int, int]], friends: dict[str, list[str]], as_list: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:

        def write(name: str, content: str | bytes) -> Path:
            path = Path(folder) / name
            path.write_text(str(content))
            return path

        lines = []
        for name, business, stars, seconds in log:
            moment = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
            lines.append(review(name, business, float(stars), moment))
        people = [user(n, f if as_list else ", ".join(f) or "None") for n, f in friends.items()]
        rows = read_rows(put(write, "".join(lines), "".join(people)), "yelp")
    for n, values in enumerate((rows.users, rows.items, rows.ratings, rows.timestamps)):
        assert values is not None and values.tolist() == [row[n] for row in log]
    writers = {row[0] for row in log}
    want = [[n, f] for n, fs in friends.items() for f in fs if n in writers and f in writers]
    assert rows.social is not None and rows.social.tolist() == want
