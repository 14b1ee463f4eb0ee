"""Reads the Yelp academic data set: one JSON object per line, reviews and users with their friends.

Both files have gigabytes: they are read line by line, and only ids, stars and date of a line are stored.

Letters: N reviews, S friendships.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import numpy as np

from refit_env.data.filters import RawRows
from refit_env.data.readers.delimited import refuse_binary, text_lines
from refit_env.data.readers.field_parsing import seconds_of
from refit_env.data.readers.file_lookup import all_files
from refit_env.data.readers.header_tables import ReadOptions
from refit_env.errors import DataError
from refit_env.utils.atomic_io import parse_record
from refit_env.utils.text import shown

REVIEW_FILES = ("yelp_academic_dataset_review.json", "review.json")
USER_FILES = ("yelp_academic_dataset_user.json", "user.json")


Record = TypeVar("Record")
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class Review(msgspec.Struct):
    """The fields of a review that are used."""

    user_id: Id
    business_id: Id
    stars: Annotated[float, msgspec.Meta(ge=0, le=5)]
    date: str


class User(msgspec.Struct):
    """The fields of a user that are used."""

    user_id: Id
    friends: str | list[str]


def read_yelp(source: Path, options: ReadOptions) -> RawRows:
    """Read the reviews as rows and the users' friends as social edges; ids are Yelp's, as text.

    Friends without a review are dropped. ``friends`` is text: ids separated by commas, or ``None``; in the
    releases before 2018 it is a list.

    Raises:
        DataError: if one of the two files is missing, or for the first line that breaks a rule.
    """
    review_path, user_path = all_files(source, (REVIEW_FILES, USER_FILES))
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    codes, stars, times = array("q"), array("d"), array("d")
    for where, review in _objects(review_path, Review):
        codes.append(users.setdefault(review.user_id, len(users)))
        codes.append(items.setdefault(review.business_id, len(items)))
        stars.append(review.stars)
        times.append(_date(where, review.date))
    if not users:
        raise DataError(f"{review_path}: no reviews")
    names = np.array(list(users), dtype=object), np.array(list(items), dtype=object)
    pairs = np.array(codes, dtype=np.int64).reshape(-1, 2)  # (N, 2)
    edges = np.array(_friends(user_path, users), dtype=np.int64).reshape(-1, 2)  # (S, 2)
    return RawRows(
        names[0][pairs[:, 0]],
        names[1][pairs[:, 1]],
        np.array(times),
        np.array(stars),
        social=names[0][edges],
    )


def _friends(path: Path, users: dict[str, int]) -> array[int]:
    """Return the numbers of user and friend of each edge, alternating."""
    edges = array("q")
    for _, user in _objects(path, User):
        code = users.get(user.user_id)
        if code is None:
            continue
        friends = user.friends
        if isinstance(friends, str):
            friends = [] if friends.strip() in ("", "None") else friends.split(",")
        for friend in friends:
            other = users.get(friend.strip())
            if other is not None:
                edges.append(code)
                edges.append(other)
    return edges


def _objects(path: Path, kind: type[Record]) -> Iterator[tuple[str, Record]]:
    """Yield file and line, for messages, and the object of every line that is not blank."""
    refuse_binary(path)
    for number, line in text_lines(path):
        if line.strip():
            where = f"{path} line {number}"
            yield where, parse_record(line, kind, where)


def _date(where: str, text: str) -> float:
    seconds = seconds_of(text)
    if seconds is None:
        raise DataError(f"{where}: 'date' should be a date such as 2016-03-09 13:05:00, found {shown(text)}")
    return seconds
