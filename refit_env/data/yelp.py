"""The Yelp academic data set: a JSON object a line, reviews and users with their friends.

Both files are gigabytes: they are read line by line, and of each line only the ids, stars and date are kept.

Letters: N reviews, S friendships.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from refit_env.data.delimited import refuse_binary
from refit_env.data.fields import seconds_of
from refit_env.data.filters import RawRows
from refit_env.data.named import ReadOptions
from refit_env.data.places import all_files
from refit_env.errors import DataError

REVIEW_FILES = ("yelp_academic_dataset_review.json", "review.json")
USER_FILES = ("yelp_academic_dataset_user.json", "user.json")


def read_yelp(source: Path, options: ReadOptions) -> RawRows:
    """Rows of the reviews, social edges of the users' friends; ids are Yelp's own, as text.

    A friend is kept who wrote a review, too. ``friends`` is text, ids separated by commas or ``None``, and a
    list in the releases before 2018.

    Raises:
        DataError: if one of the pair is missing, or for the first line that breaks a rule.
    """
    review_path, user_path = all_files(source, (REVIEW_FILES, USER_FILES))
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    codes, stars, times = array("q"), array("d"), array("d")
    for number, review in _objects(review_path):
        where = f"{review_path} line {number}"
        user, item = _text(where, review, "user_id"), _text(where, review, "business_id")
        codes.append(users.setdefault(user, len(users)))
        codes.append(items.setdefault(item, len(items)))
        stars.append(_stars(where, review))
        times.append(_date(where, review))
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
    """Numbers of a user and of a friend, in turns."""
    edges = array("q")
    for number, user in _objects(path):
        where = f"{path} line {number}"
        code = users.get(_text(where, user, "user_id"))
        friends = user.get("friends")
        if isinstance(friends, str):
            friends = [] if friends.strip() in ("", "None") else friends.split(",")
        if not isinstance(friends, list) or not all(isinstance(friend, str) for friend in friends):
            raise DataError(f"{where}: 'friends' should be ids separated by commas, found {friends!r:.60}")
        if code is not None:
            for friend in friends:
                other = users.get(friend.strip())
                if other is not None:
                    edges.append(code)
                    edges.append(other)
    return edges


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and object of every line that is not blank."""
    refuse_binary(path)
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise DataError(
                        f"{path} line {number}: expected a JSON object, found {line.strip()[:40]!r}"
                    )
                yield number, value
    except UnicodeDecodeError as error:
        raise DataError(f"{path} after line {number}: not UTF-8 text ({error.reason})") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} line {number}: not JSON ({error.msg}); is the file truncated?") from None


def _text(where: str, values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}: {name!r} should be an id, found {value!r:.40}")
    return value


def _stars(where: str, review: dict[str, Any]) -> float:
    value = review.get("stars")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 5:
        raise DataError(f"{where}: 'stars' should be a number in 0..5, found {value!r:.40}")
    return float(value)


def _date(where: str, review: dict[str, Any]) -> float:
    value = review.get("date")
    seconds = seconds_of(value) if isinstance(value, str) else None
    if seconds is None:
        raise DataError(f"{where}: 'date' should be a date such as 2016-03-09 13:05:00, found {value!r:.40}")
    return seconds
