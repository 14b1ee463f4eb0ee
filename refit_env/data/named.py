"""Tables with a header, whose columns are found by name: CSV, and RecBole's atomic files.

Letters: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from refit_env.data.dataset import SPLITS
from refit_env.data.delimited import Layout, read_delimited, read_header
from refit_env.data.fields import Kind
from refit_env.data.filters import RawRows
from refit_env.data.messages import listed, shown
from refit_env.errors import DataError, unknown_name


@dataclass(frozen=True)
class ReadOptions:
    """What a reader may be told beyond the place of the files; the names matter to ``csv`` and ``inter``."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Role (user, item, rating, timestamp, split) -> name of the column in the header."""
    separator: str = ","
    """Between the fields of a CSV."""
    token_ids: bool = False
    """Whether ids may be any text; they are numbered in ascending order."""
    num_users: int | None = None
    """Numeric ids must lie below it; None allows any."""
    num_items: int | None = None
    """Likewise."""


ROLES: dict[str, tuple[str, ...]] = {
    "user": ("user", "user_id", "userid", "uid", "user id", "session_id", "session"),
    "item": ("item", "item_id", "itemid", "iid", "movieid", "movie_id", "anime_id", "book_id", "product_id"),
    "rating": ("rating", "ratings", "score", "stars"),
    "timestamp": ("timestamp", "time", "unixtime", "ts", "date", "datetime"),
    "split": ("split",),
}
"""Role -> the column names that are taken for it where nothing is said, in lower case."""


def read_csv(path: Path, options: ReadOptions) -> RawRows:
    """Rows of a CSV file."""
    header = read_header(path, options.separator)
    layout = _named(path, header, options, options.separator)
    return as_rows(_with_splits(path, read_delimited(path, replace(layout, quoted=True))))


def read_inter(path: Path, options: ReadOptions) -> RawRows:
    """Rows of an ``.inter`` file, whose header reads ``name:type``."""
    header = read_header(path, "\t")
    untyped = [name for name in header if ":" not in name]
    if untyped:
        raise DataError(
            f"{path} line 1: {shown(untyped[0])} has no type; RecBole's headers read 'user_id:token' ..."
        )
    bare = [name.partition(":")[0] for name in header]
    return as_rows(_with_splits(path, read_delimited(path, _named(path, bare, options, "\t"))))


def _roles(path: Path, header: Sequence[str], chosen: Mapping[str, str]) -> dict[str, str]:
    """Column name -> role, as told or by the usual names."""
    for role, name in chosen.items():
        if role not in ROLES:
            raise unknown_name("role of a column", role, ROLES)
        if name not in header:
            raise DataError(f"{path} line 1: no column {name!r} for {role}; it has {listed(header)}")
    out = {name: role for role, name in chosen.items()}
    for role, usual in ROLES.items():
        if role in chosen:
            continue
        fitting = [name for name in header if name.lower() in usual and name not in out]
        if fitting:
            out[min(fitting, key=lambda name: usual.index(name.lower()))] = role
    for role in ("user", "item"):
        if role not in out.values():
            raise DataError(
                f"{path} line 1: which column is the {role}? It has {listed(header)}; say {role}=NAME"
            )
    return out


def _named(path: Path, header: Sequence[str], options: ReadOptions, separator: str) -> Layout:
    """The layout of a file with a header: roles where known, else fields that are not used."""
    if len(set(header)) != len(header):
        raise DataError(f"{path} line 1: a column name stands twice: {listed(header)}")
    roles = _roles(path, header, options.columns)
    names = tuple(roles.get(name, f"column {name}") for name in header)
    kinds: dict[str, Kind] = {"rating": "number", "timestamp": "time", "split": "token"}
    kinds["user"] = kinds["item"] = "token" if options.token_ids else "id"
    return Layout(
        names,
        tuple(kinds.get(name, "skip") for name in names),
        separator,
        header=1,
        pattern=separator.join(header),
        hint="; for ids of any text say token_ids",
    )


def _with_splits(
    path: Path, columns: dict[str, npt.NDArray[np.generic]]
) -> dict[str, npt.NDArray[np.generic]]:
    """Turn a column of split names or numbers into 0, 1, 2."""
    if "split" not in columns:
        return columns
    known = (
        {name: n for n, name in enumerate(SPLITS)}
        | {str(n): n for n in range(3)}
        | {"validation": 1, "val": 1}
    )
    words = [str(word).strip().lower() for word in columns["split"]]
    wrong = next((n for n, word in enumerate(words) if word not in known), None)
    if wrong is not None:
        raise DataError(f"{path} row {wrong}: split is {shown(words[wrong])}, expected train, valid or test")
    return columns | {"split": np.array([known[word] for word in words], dtype=np.int8)}


def as_rows(columns: Mapping[str, npt.NDArray[np.generic]]) -> RawRows:
    """The rows of a table whose columns are named by role."""
    return RawRows(
        columns["user"],
        columns["item"],
        None if "timestamp" not in columns else columns["timestamp"].astype(np.float64),
        None if "rating" not in columns else columns["rating"].astype(np.float64),
        None if "split" not in columns else columns["split"].astype(np.int8),
    )
