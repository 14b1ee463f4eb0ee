"""Readers of check-ins: Foursquare's TSMC2014 files, and the tab-separated files of Diff-POI and others.

Letters: N rows, I places.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from refit_env.data.filters import RawRows
from refit_env.data.ids import join_ids
from refit_env.data.readers.delimited import Columns, Layout, line_of, read_delimited
from refit_env.data.readers.field_parsing import id_values
from refit_env.data.readers.file_lookup import all_files, one_file
from refit_env.data.readers.header_tables import ReadOptions
from refit_env.errors import DataError

TSMC2014 = Layout(
    ("user", "item", "category id", "category", "lat", "lon", "offset", "timestamp"),
    ("id", "token", "skip", "skip", "number", "number", "skip", "date"),
    "\t",
    pattern="user<tab>venue<tab>category id<tab>category<tab>lat<tab>lon<tab>minutes<tab>UTC time",
    encoding="latin-1",  # the published files have accented category names in Latin-1
)
LBSN = Layout(
    ("user", "place", "lat,lon", "clock", "day"),
    ("token", "token", "token", "token", "count"),
    "\t",
    pattern="USER_1<tab>LOC_2<tab>lat,lon<tab>HH:MM<tab>day",
)
NOWHERE = "LOC_null"
"""Place of a check-in whose place is unknown; Diff-POI drops such rows."""


def read_tsmc2014(source: Path, options: ReadOptions) -> RawRows:
    """Read the rows of ``dataset_TSMC2014_NYC.txt`` or ``dataset_TSMC2014_TKY.txt``; venues are tokens.

    Raises:
        DataError: for the first line that breaks a rule; the message names file, line and rule.
    """
    path = one_file(source, ("dataset_TSMC2014_NYC.txt", "dataset_TSMC2014_TKY.txt"), ".txt")
    columns = read_delimited(path, TSMC2014)
    _check_coordinates(path, TSMC2014, columns)
    return RawRows(columns["user"], columns["item"], columns["timestamp"], item_table=_places(columns))


def read_lbsn(source: Path, options: ReadOptions) -> RawRows:
    """Read ``train.txt``, ``tune.txt`` and ``test.txt``; ids are the numbers after USER_ and LOC_.

    The time of a row is in seconds since midnight of the crawl's first day. The rows of a file are not
    sorted.

    Raises:
        DataError: for a missing file, or the first line that breaks a rule; the message names file and line.
    """
    paths = all_files(source, (("train.txt",), ("tune.txt",), ("test.txt",)))
    parts = [_lbsn(path) for path in paths]
    nowhere = sum(unknown for _, unknown in parts)
    split = np.concatenate([np.full(part["user"].size, n, np.int8) for n, (part, _) in enumerate(parts)])
    columns = {name: join_ids([part[name] for part, _ in parts]) for name in parts[0][0]}
    return RawRows(
        columns["user"],
        columns["item"],
        columns["timestamp"],
        split=split,
        item_table=_places(columns),
        dropped={"a known place": nowhere} if nowhere else {},
    )


def _lbsn(path: Path) -> tuple[Columns, int]:
    """Read the columns of one file's check-ins at known places; also count those at unknown places."""
    raw = read_delimited(path, LBSN)
    user = _extract(path, raw, "user", r"USER_([0-9]{1,18})", "USER_ and a number")["0"]
    known = raw["place"] != NOWHERE  # (N,)
    place = np.where(known, raw["place"], "LOC_0")
    item = _extract(path, raw | {"place": place}, "place", r"LOC_([0-9]{1,18})", "LOC_ and a number")["0"]
    clock = _extract(path, raw, "clock", r"([01]?[0-9]|2[0-3]):([0-5][0-9])", "a time HH:MM")
    number = r"([+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)"
    where = np.where(known, raw["lat,lon"], "0,0")  # an unknown place may have no coordinates
    both = _extract(path, raw | {"lat,lon": where}, "lat,lon", f"{number}, ?{number}", "two numbers lat,lon")
    columns: Columns = {
        "timestamp": 86400.0 * raw["day"]
        + 3600.0 * clock["0"].astype(np.float64)
        + 60.0 * clock["1"].astype(np.float64),
        "lat": both["0"].astype(np.float64),
        "lon": both["1"].astype(np.float64),
    }
    _check_coordinates(path, LBSN, columns)
    columns = {name: values[known] for name, values in columns.items()}
    return columns | {"user": _ids(user[known]), "item": _ids(item[known])}, int((~known).sum())


def _ids(digits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Parse the digits (N,) after USER_ or LOC_ as ids."""
    values = id_values(pd.Series(digits, dtype=str))
    assert values is not None  # the pattern matches digits only
    return values


def _extract(path: Path, columns: Columns, name: str, pattern: str, what: str) -> Columns:
    """Return the groups "0", "1" ... of a pattern, each (N,) text; every value must match."""
    texts = pd.Series(columns[name], dtype=object)
    found = texts.str.extract(f"^{pattern}$")
    if found.isna().to_numpy().any():
        row = int(np.flatnonzero(found.isna().to_numpy().any(axis=1))[0])
        line = line_of(path, LBSN, row)
        raise DataError(f"{path} line {line}: {name} {str(texts.iloc[row])[:40]!r} is not {what}")
    return {str(n): found[n].to_numpy(dtype=object) for n in found.columns}


def _check_coordinates(path: Path, layout: Layout, columns: Columns) -> None:
    """Raise an error for a latitude or longitude out of range."""
    for name, limit in (("lat", 90.0), ("lon", 180.0)):
        if (wrong := np.abs(columns[name]) > limit).any():
            row = int(np.flatnonzero(wrong)[0])
            line = line_of(path, layout, row)
            raise DataError(
                f"{path} line {line}: {name} {columns[name][row]} is outside -{limit:g}..{limit:g}"
            )


def _places(columns: Columns) -> dict[str, npt.NDArray[Any]]:
    """Return item, lat and lon of each place, from its first row."""
    kept = ~pd.Series(columns["item"]).duplicated().to_numpy()
    return {name: columns[name][kept] for name in ("item", "lat", "lon")}
