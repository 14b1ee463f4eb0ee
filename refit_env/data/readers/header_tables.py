"""Reads tables with a header, whose columns are found by name: CSV, and RecBole's atomic files.

Letters: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from refit_env.data.filters import RawRows
from refit_env.data.interactions import SPLITS
from refit_env.data.limits import MOST_COLUMNS
from refit_env.data.messages import listed, spelled
from refit_env.data.readers.delimited import Layout, first_value, line_of, read_counting, read_header
from refit_env.data.readers.field_parsing import MISSING, Kind, parse_number
from refit_env.data.recipe import separator_fault, separator_of
from refit_env.errors import DataError, unknown_name
from refit_env.utils.text import shown


@dataclass(frozen=True)
class ReadOptions:
    """Settings of a reader; ``columns`` to ``drop_blank`` apply to the formats ``csv`` and ``inter``."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Role (user, item, rating, timestamp, split) -> name of the column in the header."""
    ignore: Sequence[str] = ()
    """Columns that are not read, even if they have the name of a role."""
    separator: str | None = None
    """Separator of a CSV file; None detects it from the header."""
    token_ids: bool = False
    """Whether ids may be any text; they are numbered in ascending order."""
    drop_blank: bool = False
    """Whether rows with an empty field that is used are dropped, and counted."""
    ratings: bool = False
    """Whether ratings are used; if not, they are read only where ``columns`` names them."""
    splits: bool = True
    """Whether a column of splits is used; if not, it is read only where ``columns`` names it."""
    num_users: int | None = None
    """Numeric ids must be below it; None allows any."""
    num_items: int | None = None
    """Likewise."""


ROLES: dict[str, tuple[str, ...]] = {
    "user": ("user", "user_id", "userid", "uid", "session_id", "session"),
    "item": ("item", "item_id", "itemid", "iid", "movieid", "movie_id", "anime_id", "book_id", "product_id"),
    "rating": ("rating", "ratings", "score", "stars"),
    "timestamp": ("timestamp", "time", "unixtime", "ts", "date", "datetime"),
    "split": ("split",),
}
"""Role -> its usual column names, as ``_usual`` writes them, for roles that ``columns`` does not name."""


def _usual(name: str) -> str:
    """Return a column's name as ``ROLES`` writes it: lower case, with ``_`` for a space or a hyphen.

    Example:
        >>> _usual("Item ID"), _usual("user-id")
        ('item_id', 'user_id')
    """
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def read_csv(path: Path, options: ReadOptions) -> RawRows:
    """Read the rows of a CSV file."""
    stated = options.separator
    if stated is not None and (fault := separator_fault(stated)) is not None:
        raise DataError(f"{spelled('separator')} {fault}")
    separator = _separator(path, options) if stated is None else separator_of(stated)
    header = read_header(path, separator)
    layout = replace(_named(path, header, options, separator), quoted=True)
    return _read_named(path, layout, header, options)


def read_inter(path: Path, options: ReadOptions) -> RawRows:
    """Read the rows of an ``.inter`` file, whose header has the form ``name:type``."""
    header = read_header(path, "\t")
    untyped = [name for name in header if ":" not in name]
    if untyped:
        raise DataError(
            f"{path} line 1: {shown(untyped[0])} has no type; RecBole's headers have the form 'user_id:token'"
        )
    bare = [name.partition(":")[0] for name in header]
    return _read_named(path, _named(path, bare, options, "\t"), bare, options)


def _passed_over(header: Sequence[str], layout: Layout, options: ReadOptions) -> tuple[str, ...]:
    """Return a note for each column that is read by its usual name although another one fits, too."""
    notes = []
    for column, role, kind in zip(header, layout.names, layout.kinds, strict=True):
        others = [name for name in _fitting(header, role, options) if name != column]
        if others and kind != "skip" and role not in options.columns:
            other = spelled("columns", f"{{{role!r}: {others[0]!r}}}", f"{role}={others[0]}")
            named = " and ".join(map(shown, (column, *others)))
            notes.append(
                f"the columns {named} may each be the {role}: {shown(column)} is read; {other} changes it"
            )
    return tuple(notes)


def _maybe_missing(rows: RawRows) -> tuple[str, ...]:
    """Return a note for each user and item whose id may mean a missing one."""
    notes = []
    for role, ids in (("user", rows.users), ("item", rows.items)):
        for name in pd.unique(ids):
            if str(name).strip().lower() in MISSING:
                count = int((ids == name).sum())
                has, them = ("1 row has", "it") if count == 1 else (f"{count:,} rows have", "them")
                notes.append(
                    f"{has} the {role} {shown(str(name))}: if that means a missing id, remove {them}"
                )
    return tuple(notes)


def _with_odd_ends(rows: RawRows) -> tuple[str, ...]:
    """Return a note for users and for items where ids have spaces at an end, or characters without a sign."""
    notes = []
    for role, ids in (("user", rows.users), ("item", rows.items)):
        names = map(str, pd.unique(ids))
        odd = [name for name in names if name != name.strip() or not name.isprintable()]
        if odd:
            notes.append(
                f"{len(odd):,} {role} ids have spaces at an end, or characters that are not shown, as "
                f"{odd[0][:40]!r}: each is an id of its own"
            )
    return tuple(notes)


def _read_named(path: Path, layout: Layout, header: Sequence[str], options: ReadOptions) -> RawRows:
    """Read the rows of a file whose columns are known."""
    timed = "timestamp" in layout.names
    dated = timed and not _is_number(first_value(path, layout, "timestamp"))
    if dated:
        kinds = zip(layout.names, layout.kinds, strict=True)
        layout = replace(layout, kinds=tuple("date" if n == "timestamp" else k for n, k in kinds))
    columns, dropped = read_counting(path, layout)
    rows = as_rows(_with_splits(path, layout, columns), unix=timed and not dated)
    unread = {name: name in layout.names and name not in columns for name in ("rating", "split")}
    notes = _passed_over(header, layout, options)
    if options.token_ids:
        notes = (*notes, *_maybe_missing(rows), *_with_odd_ends(rows))
    rows = replace(rows, unread_ratings=unread["rating"], unread_split=unread["split"], notes=notes)
    return replace(rows, dropped={"blanks": dropped}) if options.drop_blank else rows


def _is_number(text: str) -> bool:
    try:
        parse_number(text)
    except ValueError:
        return False
    return True


def _separator(path: Path, options: ReadOptions) -> str:
    """Return the separator with which the header has a user and an item, else the most columns."""
    usual = ("\t", ",", ";", "|") if path.suffix.lower() == ".tsv" else (",", "\t", ";", "|")

    def fit(separator: str) -> tuple[bool, int]:
        try:
            header = read_header(path, separator)
        except DataError:
            return False, MOST_COLUMNS + 1  # chosen, so that reading the header raises the error again
        try:
            _roles(path, header, options)
        except ValueError:
            return False, len(header)
        return True, len(header)

    return max(usual, key=fit)  # the first of the best


def _roles(path: Path, header: Sequence[str], options: ReadOptions) -> dict[str, str]:
    """Return column name -> role, as stated by the options or by the usual names."""
    chosen = options.columns
    for name in options.ignore:
        option = spelled("ignore", repr((name,)), name)
        if name not in header:
            raise DataError(f"{path} line 1: {option}: no such column; it has {listed(header)}")
        if name in chosen.values():
            raise DataError(f"{path} line 1: {option}: the column is also named for a role")
    for role, name in chosen.items():
        if role not in ROLES:
            raise unknown_name("role of a column", role, ROLES)
        if name not in header:
            raise DataError(f"{path} line 1: no column {name!r} for {role}; it has {listed(header)}")
    out = {name: role for role, name in chosen.items()}
    for column in out:
        roles = [role for role, name in chosen.items() if name == column]
        if len(roles) > 1:
            raise DataError(
                f"{path} line 1: {spelled('columns')} names {column!r} for {' and '.join(roles)}; "
                "one role each"
            )
    for role, usual in ROLES.items():
        if role in chosen:
            continue
        fitting = [name for name in _fitting(header, role, options) if name not in out]
        if fitting:
            out[min(fitting, key=lambda name: usual.index(_usual(name)))] = role
    for role in ("user", "item"):
        if role not in out.values():
            raise DataError(
                f"{path} line 1: which column is the {role}? It has {listed(header)}; "
                f"{spelled('columns', '{' + repr(role) + ': NAME}', role + '=NAME')} states it"
                + ("" if len(header) > 1 else f", or {spelled('separator')} the character between columns")
            )
    return out


def _fitting(header: Sequence[str], role: str, options: ReadOptions) -> list[str]:
    """Return the columns with a usual name of a role, but those that are ignored or named for another one."""
    usual = ROLES.get(role, ())  # none of a column without a role
    passed = (*options.ignore, *(name for other, name in options.columns.items() if other != role))
    return [name for name in header if _usual(name) in usual and name not in passed]


def _named(path: Path, header: Sequence[str], options: ReadOptions, separator: str) -> Layout:
    """Return the layout of a file with a header: columns with a role are read, others are skipped."""
    if len(set(header)) != len(header):
        raise DataError(f"{path} line 1: a column name appears twice: {listed(header)}")
    roles = _roles(path, header, options)
    names = tuple(roles.get(name, f"column {name}") for name in header)
    kinds: dict[str, Kind] = {"timestamp": "number"}
    if options.splits or "split" in options.columns:
        kinds["split"] = "token"
    if options.ratings or "rating" in options.columns:
        kinds["rating"] = "number"
    kinds["user"] = kinds["item"] = "token" if options.token_ids else "id"
    return Layout(
        names,
        tuple(kinds.get(name, "skip") for name in names),
        separator,
        header=1,
        pattern=separator.join(header),
        hint=f"; {spelled('token_ids', 'True')} accepts ids of any text",
        blank=f"; {spelled('drop_blank', 'True')} drops such rows, {spelled('ignore')} skips a column",
        date_hint=f"; {spelled('ignore')} leaves a column out",
        drop_blank=options.drop_blank,
    )


def _with_splits(
    path: Path, layout: Layout, columns: dict[str, npt.NDArray[np.generic]]
) -> dict[str, npt.NDArray[np.generic]]:
    """Convert a column of split names or numbers to 0, 1, 2."""
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
        line, word = line_of(path, layout, wrong), shown(words[wrong])
        raise DataError(f"{path} line {line}: split is {word}, expected train, valid or test")
    return columns | {"split": np.array([known[word] for word in words], dtype=np.int8)}


def as_rows(columns: Mapping[str, npt.NDArray[np.generic]], unix: bool = False) -> RawRows:
    """Return the rows of a table whose columns are named by role; with ``unix``, times have any unit."""
    return RawRows(
        columns["user"],
        columns["item"],
        None if "timestamp" not in columns else columns["timestamp"].astype(np.float64),
        None if "rating" not in columns else columns["rating"].astype(np.float64),
        None if "split" not in columns else columns["split"].astype(np.int8),
        unix=unix,
    )
