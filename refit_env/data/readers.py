"""Readers of the official formats: each gives a table with columns user, item and, where there, more.

===============  ==================================================================================
format           file
===============  ==================================================================================
``u.data``       GroupLens ML-100K: user, item, rating, unix seconds, tab-separated
``ratings.dat``  GroupLens ML-1M: ``user::item::rating::timestamp``
``diffrec``      DiffRec: ``{train,valid,test}_list.npy``, int (N, 2) of user and item
``lightgcn``     LightGCN: ``train.txt`` and ``test.txt``, a line ``user item item ...`` each user
``inter``        RecBole: tab-separated with a header such as ``user_id:token``
``csv``          any CSV with named columns
===============  ==================================================================================

A published split comes as a column ``split`` (0 train, 1 valid, 2 test). Nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from refit_env.errors import DataError, unknown_name

RECBOLE = {"user_id": "user", "item_id": "item", "rating": "rating", "timestamp": "timestamp"}
"""RecBole's field names and ours."""

_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def read_raw(path: Path | str, format: str, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read official files.

    Args:
        path: the file, or the folder that holds the format's files.
        format: a name of the table above.
        columns: for ``csv``: our names (user, item, rating, timestamp) to the file's.

    Returns:
        Columns user, item (int64) and, where the source has them, rating (float64), timestamp
        (float64 seconds), split (int8).

    Raises:
        DataError: if a file is missing, truncated, of another format, or breaks a rule; the message names
            file, line and rule.
        ValueError: for an unknown format.
    """
    path = Path(path)
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if format == "csv":
        return read_csv(_one(path, "*.csv"), columns)
    return FORMATS[format](path)


def read_u_data(path: Path) -> pd.DataFrame:
    """GroupLens ML-100K."""
    return _separated(_one(path, "u.data"), "\t", "user<TAB>item<TAB>rating<TAB>timestamp")


def read_ratings_dat(path: Path) -> pd.DataFrame:
    """GroupLens ML-1M and ML-10M."""
    return _separated(_one(path, "ratings.dat"), "::", "user::item::rating::timestamp")


def read_diffrec(path: Path) -> pd.DataFrame:
    """DiffRec's three lists, in a folder; row order within a user is chronological."""
    parts = []
    for split, name in enumerate(("train", "valid", "test")):
        file = path / f"{name}_list.npy"
        if not file.is_file():
            raise DataError(f"{file}: there is no such file; DiffRec's format is train_list.npy, valid_list.npy, test_list.npy")
        _refuse_pickle(file)
        try:
            pairs = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(f"{file}: not a whole .npy file of numbers ({error})") from error
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise DataError(f"{file}: shape {pairs.shape}, expected (N, 2): user and item")
        if pairs.dtype.kind == "f" and not np.array_equal(pairs, np.round(pairs)):
            raise DataError(f"{file}: ids must be whole numbers, found {pairs.dtype}")
        if not len(pairs):
            raise DataError(f"{file}: the {name} split is empty")
        parts.append(pd.DataFrame({"user": pairs[:, 0], "item": pairs[:, 1], "split": np.int8(split)}))
        _check_ids(file, parts[-1], first_line=0)
    return _typed(pd.concat(parts, ignore_index=True))


def read_lightgcn(path: Path) -> pd.DataFrame:
    """LightGCN's ``train.txt`` and ``test.txt``; a ``valid.txt`` is read where there is one."""
    parts = []
    for split, name in ((0, "train.txt"), (1, "valid.txt"), (2, "test.txt")):
        file = path / name
        if not file.is_file() and split == 1:
            continue
        table = _ragged(file)
        if table.empty:
            raise DataError(f"{file}: the split is empty")
        parts.append(table.assign(split=np.int8(split)))
    return _typed(pd.concat(parts, ignore_index=True))


def read_inter(path: Path) -> pd.DataFrame:
    """RecBole's atomic ``.inter`` file; fields that we do not know are left out."""
    file = _one(path, "*.inter")
    header = _lines(file)[0].rstrip("\n").split("\t")
    names = [field.split(":")[0] for field in header]
    if "user_id" not in names or "item_id" not in names:
        raise DataError(f"{file} line 1: expected fields user_id:token and item_id:token, found {header}")
    return read_csv(file, {ours: header[names.index(theirs)] for theirs, ours in RECBOLE.items() if theirs in names}, "\t")


def read_csv(file: Path, columns: Mapping[str, str] | None = None, separator: str = ",") -> pd.DataFrame:
    """A table with a header.

    Args:
        file: the file.
        columns: our names to the file's; equal names where None.
        separator: between fields.
    """
    _refuse_pickle(file)
    wanted = dict(columns or {"user": "user", "item": "item"})
    try:
        table = pd.read_csv(file, sep=separator)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a table separated by {separator!r} ({error})") from error
    if columns is None:
        wanted |= {name: name for name in ("rating", "timestamp") if name in table}
    for name in wanted.values():
        if name not in table:
            raise DataError(f"{file}: no column {name!r}; it has {', '.join(map(str, table.columns))}. Wrong separator?")
    for name in ("user", "item"):
        if name not in wanted:
            raise DataError(f"{file}: say which column is the {name}: columns={{{name!r}: ...}}")
    out = table[list(wanted.values())].set_axis(list(wanted), axis=1)
    _check_ids(file, out, first_line=2)
    return _typed(out)


FORMATS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "u.data": read_u_data,
    "ratings.dat": read_ratings_dat,
    "diffrec": read_diffrec,
    "lightgcn": read_lightgcn,
    "inter": read_inter,
    "csv": read_csv,
}
"""Readers by format."""


def _separated(file: Path, separator: str, rule: str) -> pd.DataFrame:
    """Lines of user, item, rating and timestamp."""
    rows = []
    for number, line in enumerate(_lines(file), start=1):
        fields = line.rstrip("\n").split(separator)
        if len(fields) != 4:
            hint = " Is this a CSV? Use format 'csv'." if line.count(",") >= 2 else ""
            raise DataError(f"{file} line {number}: expected {rule!r}, found {line.rstrip()!r}.{hint}")
        try:
            rows.append((int(fields[0]), int(fields[1]), float(fields[2]), float(fields[3])))
        except ValueError:
            raise DataError(f"{file} line {number}: expected whole ids and numbers, {rule!r}, found {line.rstrip()!r}") from None
    table = pd.DataFrame(rows, columns=["user", "item", "rating", "timestamp"])
    _check_ids(file, table, first_line=1)
    return _typed(table)


def _ragged(file: Path) -> pd.DataFrame:
    """Lines of a user and the user's items."""
    users: list[int] = []
    items: list[int] = []
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            user, *row = (int(field) for field in line.split())
        except ValueError:
            raise DataError(f"{file} line {number}: expected 'user item item ...', found {line.strip()[:60]!r}") from None
        users += [user] * len(row)
        items += row
    table = pd.DataFrame({"user": users, "item": items})
    _check_ids(file, table, first_line=None)
    return table


def _lines(file: Path) -> list[str]:
    """The lines of a text file; the last one must be whole."""
    if not file.is_file():
        raise DataError(f"{file}: there is no such file")
    _refuse_pickle(file)
    try:
        text = file.read_text(encoding="latin-1" if file.suffix == ".dat" else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a text file ({error})") from error
    if not text.strip():
        raise DataError(f"{file}: the file is empty")
    return text.splitlines(keepends=True)


def _one(path: Path, pattern: str) -> Path:
    """The file itself, or the one in the folder that matches."""
    if path.is_file():
        return path
    found = sorted(path.glob(pattern))
    if len(found) != 1:
        raise DataError(f"{path}: expected one file {pattern!r}, found {len(found)}")
    return found[0]


def _refuse_pickle(file: Path) -> None:
    """Pickles can run code; they are recognised by their first bytes and never loaded."""
    with file.open("rb") as handle:
        if handle.read(2) in _PICKLE:
            raise DataError(f"{file}: this is a Python pickle, which can run code when loaded; it is not read")


def _check_ids(file: Path, table: pd.DataFrame, first_line: int | None) -> None:
    """Ids whole and not negative, ratings and times numbers; the error names the line."""
    for name in table.columns.intersection(["user", "item", "rating", "timestamp"]):
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
        wrong = ~np.isfinite(values)
        rule = "is not a number"
        if name in ("user", "item"):
            with np.errstate(invalid="ignore"):
                wrong = wrong | (values < 0) | (values != np.round(values))
            rule = "must be a whole number, 0 or more"
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            where = f"row {row}" if first_line is None else f"line {row + first_line}"
            raise DataError(f"{file} {where}: {name} {table[name].iloc[row]!r} {rule}")


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Whole ids, float ratings and times."""
    types = {"user": np.int64, "item": np.int64, "rating": np.float64, "timestamp": np.float64}
    return table.astype({name: kind for name, kind in types.items() if name in table})
