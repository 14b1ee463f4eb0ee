"""Reads logs of clicks and views: YooChoose (RecSys Challenge 2015), KuaiRec, ZhihuRec.

Letters: N rows.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from refit_env.data.filters import RawRows
from refit_env.data.ids import id_column
from refit_env.data.readers.delimited import Layout, read_delimited, read_header, refuse_binary, text_lines
from refit_env.data.readers.field_parsing import parse_field
from refit_env.data.readers.file_lookup import one_file
from refit_env.data.readers.header_tables import ReadOptions
from refit_env.errors import DataError

CLICKS = Layout(
    ("session", "timestamp", "item", "category"),
    ("id", "date", "id", "skip"),  # the category is S, 0 or a number
    ",",
    pattern="session,time,item,category",
)
BUYS = Layout(
    ("session", "timestamp", "item", "price", "quantity"),
    ("id", "date", "id", "skip", "skip"),
    ",",
    pattern="session,time,item,price,quantity",
)
KUAIREC = (
    "user_id",
    "video_id",
    "play_duration",
    "video_duration",
    "time",
    "date",
    "timestamp",
    "watch_ratio",
)
"""The columns of KuaiRec's two matrices."""
IMPRESSIONS = Layout(("user", "answer", "shown", "clicked"), ("id", "id", "number", "number"), ",")


def read_yoochoose(source: Path, options: ReadOptions) -> RawRows:
    """Read the rows of ``yoochoose-clicks.dat`` or ``yoochoose-buys.dat`` (five fields); sessions are users.

    Neither file has a header. In a folder with both, the clicks are read; pass the file to read purchases.

    Raises:
        DataError: for the first line that breaks a rule; the message names file, line and rule.
    """
    path = one_file(source, ("yoochoose-clicks.dat", "yoochoose-buys.dat"), ".dat")
    fields = len(read_header(path, ","))
    columns = read_delimited(path, BUYS if fields == len(BUYS.names) else CLICKS)
    return RawRows(columns["session"], columns["item"], columns["timestamp"])


def read_kuairec(source: Path, options: ReadOptions) -> RawRows:
    """Read the rows of ``big_matrix.csv`` or ``small_matrix.csv``; the rating is the watch ratio.

    Some rows of the small matrix have no time; they are dropped, and counted.

    Raises:
        DataError: if a column is missing, or for the first line that breaks a rule.
    """
    path = one_file(source, ("big_matrix.csv", "small_matrix.csv"), "_matrix.csv")
    header = read_header(path, ",")
    wanted = {"user_id": "id", "video_id": "id", "timestamp": "optional", "watch_ratio": "number"}
    missing = [name for name in wanted if name not in header]
    if missing:
        raise DataError(f"{path} line 1: no column {missing[0]!r}; KuaiRec's are {', '.join(KUAIREC)}")
    kinds: Any = tuple(wanted.get(name, "skip") for name in header)
    layout = Layout(tuple(header), kinds, ",", header=1, quoted=True, pattern=",".join(header))
    columns = read_delimited(path, layout)
    timed = ~np.isnan(columns["timestamp"])
    rows = RawRows(
        columns["user_id"], columns["video_id"], columns["timestamp"], columns["watch_ratio"], unix=True
    ).take(timed)
    return rows if timed.all() else replace(rows, dropped={"a time": int((~timed).sum())})


def read_zhihu(source: Path, options: ReadOptions) -> RawRows:
    """Read the clicks of ZhihuRec: ``inter_impression.csv``, or ``zhihu1M.txt`` of its first release.

    The time of a row is the time of the click. Answers that were not clicked are dropped, and counted.

    Raises:
        DataError: for the first line that breaks a rule; the message names file, line and rule.
    """
    path = one_file(source, ("inter_impression.csv", "zhihu1M.txt"), "impression.csv")
    if path.suffix.lower() == ".txt":
        columns = _first_release(path)
    else:
        columns = read_delimited(path, IMPRESSIONS)
    clicked = columns["clicked"] > 0  # 0: shown, not clicked
    rows = RawRows(columns["user"], columns["answer"], columns["clicked"], unix=True).take(clicked)
    if not len(rows):
        raise DataError(f"{path}: none of the {clicked.size} answers shown was clicked")
    return rows if clicked.all() else replace(rows, dropped={"a click": int((~clicked).sum())})


def _first_release(path: Path) -> dict[str, Any]:
    """Read lines ``user <tab> n <tab> answer|shown|clicked,... <tab> m <tab> query|time,...`` as columns."""
    refuse_binary(path)
    users: list[int | str] = []
    answers: list[int | str] = []
    clicks: list[float] = []
    counts: list[int] = []
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            user, row = _line_of_first_release(line)
        except ValueError as error:
            raise DataError(f"{path} line {number}: {error}") from None
        users.append(user)
        counts.append(len(row))
        answers.extend(answer for answer, _ in row)
        clicks.extend(clicked for _, clicked in row)
    return {
        "user": np.repeat(id_column(users), counts),
        "answer": id_column(answers),
        "clicked": np.array(clicks, dtype=np.float64),
    }


def _line_of_first_release(line: str) -> tuple[int | str, list[tuple[int | str, float]]]:
    """Parse the user, and id and time of the click (or 0) of each answer that was shown to the user."""
    fields = line.split("\t")
    if len(fields) < 3:
        raise ValueError(
            f"expected 'user<tab>n<tab>answer|shown|clicked,...', found {line[:60]!r} ({len(fields)} fields)"
        )
    user, count = parse_field(fields[0], "id"), parse_field(fields[1], "count")
    shown = [word.split("|") for word in fields[2].split(",") if word.strip()]
    wrong = next((word for word in shown if len(word) != 3), None)
    if wrong is not None:
        raise ValueError(f"expected 'answer|shown|clicked', found {'|'.join(wrong)[:60]!r}")
    if len(shown) != count:
        raise ValueError(f"{count} answers are stated, {len(shown)} are there; truncated?")
    row = []
    for answer, seen, clicked in shown:
        parse_field(seen, "count")
        row.append((parse_field(answer, "id"), float(parse_field(clicked, "count"))))
    return user, row
