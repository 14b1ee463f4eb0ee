"""The parquet tables of a canonical folder, every value checked.

Letters: U users, I items, N rows, S social edges.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from refit_env.data.delimited import refuse_pickle
from refit_env.data.filters import RawRows
from refit_env.errors import DataError

_LIMITS = {"lat": 90.0, "lon": 180.0}
"""Largest absolute value of a column of the items' table."""


def read_interactions(path: Path, num_users: int, num_items: int) -> RawRows:
    """The rows of ``interactions.parquet``; columns beyond the known ones are left alone.

    Raises:
        DataError: if a column is missing or a value breaks a rule; the message names file and row.
    """
    table = _read_parquet(path)
    for name in ("user", "item", "split"):
        if name not in table:
            raise DataError(f"{path}: no column {name!r}; it has {', '.join(map(str, table.columns))}")
    values = {name: table[name].to_numpy() for name in table.columns}
    users = _ids(path, "user", values["user"], num_users)
    items = _ids(path, "item", values["item"], num_items)
    split = values["split"]
    if (wrong := ~np.isin(split, (0, 1, 2))).any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{path} row {row}: split is {split[row]}, expected 0 (train), 1 (valid) or 2 (test)")
    numbers = [_finite(path, n, values[n]) if n in values else None for n in ("timestamp", "rating")]
    return RawRows(users, items, numbers[0], numbers[1], split.astype(np.int8))


def read_social(path: Path, num_users: int) -> npt.NDArray[np.int32] | None:
    """(S, 2) int32 directed user pairs of ``social.parquet``, or None where there is no such file."""
    if not path.is_file():
        return None
    table = _read_parquet(path)
    if table.shape[1] != 2:
        raise DataError(
            f"{path}: expected two columns of user ids, found {', '.join(map(str, table.columns))}"
        )
    pairs = [_ids(path, "user", table[name].to_numpy(), num_users) for name in table.columns]
    return np.stack(pairs, axis=1).astype(np.int32)


def read_item_features(path: Path, num_items: int) -> dict[str, npt.NDArray[Any]] | None:
    """Column name -> (I,) values of ``items.parquet``, in order of item, or None where there is no such file.

    Raises:
        DataError: if there is not one row for each item, or a latitude or longitude is none.
    """
    if not path.is_file():
        return None
    table = _read_parquet(path)
    if "item" not in table:
        raise DataError(f"{path}: no column 'item'; it has {', '.join(map(str, table.columns))}")
    items = _ids(path, "item", table["item"].to_numpy(), num_items)
    missing = np.flatnonzero(np.bincount(items, minlength=num_items) != 1)
    if missing.size:
        raise DataError(
            f"{path}: expected one row for each of the {num_items} items; item {missing[0]} has "
            f"{int((items == missing[0]).sum())}"
        )
    columns = {str(name): table[name].to_numpy() for name in table.columns if name != "item"}
    for name, limit in _LIMITS.items():
        if name in columns:
            columns[name] = _finite(path, name, columns[name])
            if (wrong := np.abs(columns[name]) > limit).any():
                row = int(np.flatnonzero(wrong)[0])
                raise DataError(
                    f"{path} row {row}: {name} is {columns[name][row]}, outside -{limit:g}..{limit:g}"
                )
    order = np.argsort(items)
    return {name: values[order] for name, values in columns.items()}


def read_source_ids(path: Path, count: int) -> npt.NDArray[Any] | None:
    """(count,) the source's own ids, or None where there is no such file."""
    if not path.is_file():
        return None
    table = _read_parquet(path)
    if list(table.columns) != ["id"] or len(table) != count:
        found = f"{len(table)} rows of {', '.join(map(str, table.columns))}"
        raise DataError(f"{path}: expected {count} rows of one column 'id', found {found}")
    return table["id"].to_numpy()


def _read_parquet(path: Path) -> pd.DataFrame:
    refuse_pickle(path)
    try:
        return pd.read_parquet(path)
    except Exception as error:  # pyarrow raises many kinds; all mean the same to the reader
        raise DataError(f"{path}: not a whole parquet file ({error})") from error


def _ids(path: Path, name: str, values: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Whole numbers in 0..count - 1."""
    if values.dtype.kind not in "iu":
        if values.dtype.kind == "f" and not (whole := values == np.floor(values)).all():
            row = int(np.flatnonzero(~whole)[0])
            raise DataError(f"{path} row {row}: {name} {values[row]} is no whole number")
        raise DataError(f"{path}: column {name!r} is {values.dtype}, expected whole numbers")
    if (wrong := (values < 0) | (values >= count)).any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{path} row {row}: {name} {values[row]} is outside 0..{count - 1} (num_{name}s)")
    return values.astype(np.int64)


def _finite(path: Path, name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Finite numbers."""
    if values.dtype.kind not in "iuf":
        raise DataError(f"{path}: column {name!r} is {values.dtype}, expected numbers")
    if (wrong := ~np.isfinite(values)).any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{path} row {row}: {name} is {values[row]}, expected a finite number")
    return values.astype(np.float64)
