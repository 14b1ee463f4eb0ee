"""Tests of tables with a header: columns, separators, blanks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refit_env.data.messages import as_options
from refit_env.data.prepare import prepare
from refit_env.data.readers.formats import FORMATS, guess_format, read_rows
from refit_env.data.readers.header_tables import ReadOptions, read_csv
from refit_env.data.recipe import Recipe
from refit_env.errors import DataError

Write = Callable[[str, str | bytes], Path]
HEADER = "user,item,rating,timestamp"
BLANKS = f"{HEADER}\n1,2,5,1500000000\n1,3,,1500000001\n2,2,4,\n,4,3,1500000003\n2,4,1,1500000004\n"


def whole(blank: str = "") -> str:
    """Write a hundred rows, one of them with an invalid rating."""
    rows = [f"{n % 5},{n},{blank if n == 7 else 4}\n" for n in range(100)]
    return "user,item,rating\n" + "".join(rows)


@pytest.mark.parametrize("blank", ["", "n/a", "good"])
def test_a_faulty_rating_that_is_not_used_is_ignored(blank: str, write: Write) -> None:
    path = write("ratings.csv", whole(blank))
    data = prepare("shop", path)
    assert data.num_items == 100 and data.train.ratings is None
    for recipe in (Recipe(min_rating=1), Recipe(columns={"rating": "rating"})):
        with pytest.raises(DataError, match=r"ratings\.csv line 9: rating (is empty|'.*' is not a number)"):
            prepare("shop", path, recipe)


@pytest.mark.parametrize("header", ["User ID,Item ID,Date", "user-id,ITEM-ID,Time", " userId, itemId,ts"])
def test_usual_names_may_have_spaces_hyphens_and_capitals(header: str, write: Write) -> None:
    rows = read_rows(write("log.csv", f"{header}\n1,2,2020-01-02\n"), "csv")
    assert rows.users.tolist() == [1] and rows.items.tolist() == [2] and rows.timestamps is not None


@pytest.mark.parametrize(
    ("header", "options", "notes"),
    [
        (
            "user,user_id,item",
            {},
            ["the columns 'user' and 'user_id' may each be the user: 'user' is read; --colu"],
        ),
        ("user_id,item,time,user", {}, ["the columns 'user' and 'user_id' may each be"]),
        (
            "user,item,ts,date",
            {},
            ["'ts' and 'date' may each be the timestamp: 'ts' is read; --columns timestamp=d"],
        ),
        ("user,user_id,item", {"columns": {"user": "user_id"}}, []),
        ("user,user_id,item", {"ignore": ("user",)}, []),
        ("user,item,rating,stars", {}, []),  # neither is read
        ("user,item,rating,stars", {"ratings": True}, ["may each be the rating: 'rating' is read"]),
    ],
)
def test_a_column_that_was_passed_over_is_reported(
    header: str, options: dict[str, Any], notes: list[str], write: Write
) -> None:
    path = write("log.csv", f"{header}\n" + ",".join(str(n + 1) for n in range(header.count(",") + 1)) + "\n")
    with as_options():
        found = read_csv(path, ReadOptions(**options)).notes
    assert len(found) == len(notes) and all(part in note for part, note in zip(notes, found, strict=True))


def test_ids_that_may_mean_missing_ones_are_reported(write: Write) -> None:
    path = write("log.csv", "user,item\nann,1\nNULL,2\nNULL,nan\nNolan,nana\n")
    assert read_csv(path, ReadOptions(token_ids=True)).notes == (
        "2 rows have the user 'NULL': if that means a missing id, remove them",
        "1 row has the item 'nan': if that means a missing id, remove it",
    )


def test_a_column_without_a_name_is_listed_as_empty_quotes(write: Write) -> None:
    with pytest.raises(DataError, match=r"which column is the user\? It has '', item;"):
        read_rows(write("log.csv", ",item\n1,2\n"), "csv")


def test_ratings_that_no_option_uses_are_reported(write: Write) -> None:
    path = write("ratings.csv", whole("4"))
    with as_options():
        notes = prepare("shop", path).meta["preparation"]["notes"]
    assert notes == [
        "ratings are not used: rows with low ratings are interactions, too; --min-rating 4 keeps those >= 4"
    ]
    text = "".join(f"{n % 5}\t{n}\t4\t{1_500_000_000 + n}\n" for n in range(100))
    data = write("u.data", text)
    assert "min_rating=4 keeps" in prepare("shop", data).meta["preparation"]["notes"][0]
    used = (Recipe(min_rating=1), Recipe(columns={"rating": "rating"}), Recipe(ignore=("rating",)))
    for recipe in used:
        assert "notes" not in prepare("shop", path, recipe).meta["preparation"]


def split_rows(word: str) -> str:
    """Write thirty rows after a blank line, the seventh row of the split ``word``."""
    words = {6: word} | {n: ("train", "valid", "test")[n % 3] for n in range(30) if n != 6}
    return "user,item,split\n\n" + "".join(f"{n % 2},{n},{words[n]}\n" for n in range(30))


def test_a_split_column_that_no_option_uses_is_reported(write: Write) -> None:
    path = write("log.csv", split_rows("later"))
    with as_options():
        notes = prepare("shop", path).meta["preparation"]["notes"]
    unused = "the split of the files is not used: --split random splits anew; --split published uses it"
    assert notes == [unused]
    named = prepare("shop", write("log.csv", split_rows("val")), Recipe(columns={"split": "split"}))
    assert "split='published' uses it" in named.meta["preparation"]["notes"][0]
    assert "notes" not in prepare("shop", path, Recipe(ignore=("split",))).meta["preparation"]
    used = prepare("shop", write("log.csv", split_rows("val")), Recipe(split="published"))
    assert "notes" not in used.meta["preparation"] and len(used.valid) == 11
    write("train.txt", "".join(f"{u} {' '.join(map(str, range(20)))}\n" for u in range(3)))
    lists = write("test.txt", "0 20\n1 20\n2 20\n").parent
    assert "split of the files" in prepare("shop", lists, Recipe("lightgcn")).meta["preparation"]["notes"][0]


def test_a_faulty_split_is_named_by_its_line(write: Write) -> None:
    path = write("log.csv", split_rows("later"))
    with pytest.raises(DataError, match=r"log\.csv line 9: split is 'later', expected train, valid or test"):
        prepare("shop", path, Recipe(split="published"))
    dropped = write("log.csv", split_rows("later").replace("\n0,2,", "\n0,,"))
    with pytest.raises(DataError, match=r"log\.csv line 9: split is 'later'"):
        prepare("shop", dropped, Recipe(split="published", drop_blank=True))


def test_a_column_can_be_ignored(write: Write) -> None:
    path = write("log.csv", "user,item,time,ts\n1,2,,soon\n2,3,1500000000,\n")
    with pytest.raises(DataError, match=r"line 2: timestamp is empty; drop_blank=True drops .*, ignore"):
        read_rows(path, "csv")
    with pytest.raises(DataError, match=r"line 2: timestamp 'soon' is not a date"):
        read_rows(path, "csv", ReadOptions(ignore=("time",)))
    rows = read_rows(path, "csv", ReadOptions(ignore=("time", "ts")))
    assert rows.timestamps is None and len(rows) == 2
    with pytest.raises(DataError, match=r"ignore=\('when',\): no such column; it has user, item, time, ts"):
        read_rows(path, "csv", ReadOptions(ignore=("when",)))
    with pytest.raises(DataError, match=r"ignore=\('time',\): the column is also named for a role"):
        read_rows(path, "csv", ReadOptions(ignore=("time",), columns={"timestamp": "time"}))


@pytest.mark.parametrize("format", ["csv", "inter"])
def test_rows_with_blanks_are_dropped_with_the_option_and_counted(format: str, write: Write) -> None:
    text = BLANKS
    if format == "inter":
        text = text.replace(",", "\t").replace(
            HEADER.replace(",", "\t"), "user_id:t\titem_id:t\trating:f\ttime:f"
        )
    path = write(f"shop.{format}", text)
    for columns, kept in (({}, [2, 3, 4]), ({"rating": "rating"}, [2, 4])):
        rows = read_rows(path, format, ReadOptions(columns=columns, drop_blank=True))
        assert rows.items.tolist() == kept and rows.dropped == {"blanks": 5 - len(kept)}
    path = write(f"shop.{format}", text.splitlines()[0] + "\n\t,\t\n")
    with pytest.raises(DataError):
        read_rows(path, format, ReadOptions(drop_blank=True))


def test_dropped_blanks_are_in_the_report(write: Write) -> None:
    path = write("ratings.csv", whole())
    data = prepare("shop", path, Recipe(min_rating=1, drop_blank=True))
    assert data.meta["preparation"]["rows"] == {
        "read": 100,
        "without blanks": 99,
        "rating >= 1": 99,
        "0 duplicates merged": 99,
    }
    assert "read" not in data.meta["preparation"]["users"]  # a row without an id has none to count
    path = write("ratings.csv", whole("3"))
    assert prepare("shop", path, Recipe(drop_blank=True)).meta["preparation"]["rows"]["without blanks"] == 100


def test_dropped_blanks_of_split_files_are_added_up(write: Write) -> None:
    for split in ("train", "valid", "test"):
        path = write(f"shop.{split}.inter", "user_id:token\titem_id:token\n1\t2\n1\t\n")
    rows = read_rows(path.parent, "inter", ReadOptions(drop_blank=True))
    assert len(rows) == 3 and rows.dropped == {"blanks": 3}


@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
@pytest.mark.parametrize("name", ["log.csv", "log.tsv"])
def test_the_separator_is_found(name: str, separator: str, write: Write) -> None:
    text = "user,item,note; or | none\n1,2,a; b | c\n".replace(",", separator)
    rows = read_rows(write(name, text), "csv")
    assert (rows.users.tolist(), rows.items.tolist()) == ([1], [2])


@pytest.mark.parametrize("stated", ["\t", r"\t", "tab"])
def test_a_tab_can_be_stated(stated: str, write: Write) -> None:
    path = write("log.csv", "user\titem\n1\t2\n")
    assert read_rows(path, "csv", ReadOptions(separator=stated)).items.tolist() == [2]
    data = prepare("shop", write("log.csv", whole().replace(",", "\t")), Recipe(separator=stated))
    assert data.num_items == 100


@pytest.mark.parametrize("stated", ["", "ab", "::", "\n", '"', "a", "1", r"\n", "."])
def test_invalid_separators_are_refused(stated: str) -> None:
    with pytest.raises(
        ValueError, match=r"^separator must be one character, such as , or ; or \| or tab; found"
    ):
        Recipe(separator=stated)


def test_a_folder_with_one_tsv(write: Write) -> None:
    path = write("shop/visits.tsv", "user\titem\n1\t2\n")
    assert guess_format(path.parent) == "csv" == guess_format(path)
    assert read_rows(path.parent, "csv").items.tolist() == [2]


def test_options_that_a_format_does_not_read_are_refused(write: Write) -> None:
    path = write("u.data", "1\t2\t3\t1500000000\n")
    for name, value in {
        "columns": {"user": "a"},
        "ignore": ("a",),
        "separator": ",",
        "token_ids": True,
        "drop_blank": True,
    }.items():
        with pytest.raises(DataError, match=rf"^{name} is for csv( and inter)?, not for u\.data"):
            read_rows(path, "u.data", ReadOptions(**{name: value}))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"separator is for csv, not for inter"):
        read_rows(write("a.inter", "user_id:t\titem_id:t\n1\t2\n"), "inter", ReadOptions(separator=","))


MESSAGES = [
    ("visitor,item\n1,2\n", {}, "--columns user=NAME states it"),
    ("visitor item\n1 2\n", {}, "--separator the character between columns"),
    ("user,item\na,2\n", {}, "--token-ids accepts ids of any text"),
    (",".join(["user", "item", "time"]) + "\n1,2,\n", {}, "--drop-blank drops such rows, --ignore skips"),
    ("user,item\n1,2\n", {"min_rating": 3}, "--min-rating 3 needs ratings"),
    ("user,item\n1,2\n", {"min_rating": 3}, "--columns rating=NAME names one"),
    ("user,item\n1,2\n", {"session": "day"}, "--session day needs timestamps"),
    ("user,item\n1,2\n", {"split": "published"}, "--split published, but the files are not split"),
    (
        "user,item\n1,2\n",
        {"split": "time"},
        "--split time needs timestamps, or rows sorted by time (--ti",
    ),
    ("user,item\n1,2\n", {"ignore": ("x",)}, "--ignore x: no such column"),
    ("user,item,time\n1,2,3\n", {}, "--time-unit UNIT states their unit"),
    ("user,item\n1,2\n", {"time_unit": "ms"}, "--time-unit ms, but these files have no times"),
]


@pytest.mark.parametrize(("text", "options", "message"), MESSAGES)
def test_errors_name_options_as_they_were_typed(
    text: str, options: dict[str, object], message: str, write: Write
) -> None:
    path = write("log.csv", text)
    for context, wanted in ((True, message), (False, None)):
        with pytest.raises(ValueError) as caught:
            if context:
                with as_options():
                    prepare("shop", path, Recipe(**options))  # type: ignore[arg-type]
            else:
                prepare("shop", path, Recipe(**options))  # type: ignore[arg-type]
        assert wanted in str(caught.value) if wanted else "--" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_every_format_is_guessed_or_named(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_text("x")
    with as_options(), pytest.raises(DataError, match=r"--format NAME states it") as caught:
        guess_format(tmp_path)
    assert all(format in str(caught.value) for format in FORMATS)
