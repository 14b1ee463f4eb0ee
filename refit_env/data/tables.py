"""Reads and validates the parquet tables of a canonical folder.

Letters: U users, I items, N rows, S social edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from refit_env.data.filters import RawRows
from refit_env.data.limits import MOST_COLUMNS, check_unpacked, check_values
from refit_env.data.messages import listed, reason
from refit_env.data.readers.delimited import refuse_pickle
from refit_env.errors import DataError
from refit_env.utils.text import shown

_LIMITS = {"lat": 90.0, "lon": 180.0}
"""Largest absolute value of a column of the items' table."""
_LATEST = 4_102_444_800.0
"""Unix time of the year 2100; a later time cannot be in seconds."""


def count_rows(path: Path) -> int:
    """Return N, as a parquet file states it, without reading rows.

    Raises:
        DataError: if the file is not parquet, or states more rows than a file of its size can hold.
    """
    return int(_open(path).metadata.num_rows)


def read_interactions(path: Path, num_users: int, num_items: int) -> RawRows:
    """Read the rows of ``interactions.parquet``; unknown columns are ignored.

    Raises:
        DataError: if a column is missing or a value breaks a rule; the message names file and row.
    """
    values = _read(path, ("user", "item", "split"), ("timestamp", "rating"))
    users = _ids(path, "user", values["user"], num_users)
    items = _ids(path, "item", values["item"], num_items)
    split = values["split"]
    if split.dtype.kind not in "iuf":
        raise DataError(f"{path}: column 'split' is {_kind(split)}, expected whole numbers")
    if (wrong := ~np.isin(split, (0, 1, 2))).any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{path} row {row}: split is {split[row]}, expected 0 (train), 1 (valid) or 2 (test)")
    numbers = [_finite(path, n, values[n]) if n in values else None for n in ("timestamp", "rating")]
    if numbers[0] is not None and (late := numbers[0] > _LATEST).any():
        row = int(np.flatnonzero(late)[0])
        raise DataError(
            f"{path} row {row}: timestamp is {numbers[0][row]:.0f}, after the year 2100; "
            "the canonical form has seconds, not milliseconds"
        )
    return RawRows(users, items, numbers[0], numbers[1], split.astype(np.int8))


def read_social(path: Path, num_users: int) -> npt.NDArray[np.int32] | None:
    """Read the directed user pairs (S, 2) int32 of ``social.parquet``; None where there is no such file."""
    if not path.is_file():
        return None
    table = _read(path)
    if len(table) != 2:
        raise DataError(f"{path}: expected two columns of user ids, found {listed(table)}")
    pairs = [_ids(path, "user", values, num_users) for values in table.values()]
    return np.stack(pairs, axis=1).astype(np.int32)


def read_item_features(path: Path, num_items: int) -> dict[str, npt.NDArray[Any]] | None:
    """Read column name -> (I,) values of ``items.parquet``, sorted by item; None where there is no such file.

    Raises:
        DataError: if there is not one row for each item, or a latitude or longitude is out of range.
    """
    if not path.is_file():
        return None
    columns = _read(path, ("item",), None)
    items = _ids(path, "item", columns.pop("item"), num_items)
    missing = np.flatnonzero(np.bincount(items, minlength=num_items) != 1)
    if missing.size:
        raise DataError(
            f"{path}: expected one row for each of the {num_items} items; item {missing[0]} has "
            f"{int((items == missing[0]).sum())}"
        )
    for name, limit in _LIMITS.items():
        if name in columns:
            unknown = "; leave out the columns lat and lon where an item has none"
            columns[name] = _finite(path, name, columns[name], unknown)
            if (wrong := np.abs(columns[name]) > limit).any():
                row = int(np.flatnonzero(wrong)[0])
                raise DataError(
                    f"{path} row {row}: {name} is {columns[name][row]}, outside -{limit:g}..{limit:g}"
                )
    order = np.argsort(items)
    return {name: values[order] for name, values in columns.items()}


def read_source_ids(path: Path, count: int) -> npt.NDArray[Any] | None:
    """Read the source's ids (count,), int64 or text; None where there is no such file.

    Raises:
        DataError: if there is not one id for each number, an id is neither a whole number nor text, or an id
            appears twice; the message names file and row.
    """
    if not path.is_file():
        return None
    table = _read(path, (), None)
    rows = len(next(iter(table.values()), ()))
    if list(table) != ["id"] or rows != count:
        raise DataError(
            f"{path}: expected {count} rows of one column 'id', found {rows} rows of {listed(table)}"
        )
    ids = table["id"]
    if ids.dtype.kind not in "iuO":
        raise DataError(f"{path}: column 'id' is {_kind(ids)}, expected numbers or text")
    if ids.dtype.kind == "O" and not all(isinstance(value, str) for value in ids):
        row = next(n for n, value in enumerate(ids) if not isinstance(value, str))
        raise DataError(f"{path} row {row}: id is {shown(ids[row])}, expected text")
    values = ids.tolist()
    first = {value: n for n, value in reversed(list(enumerate(values)))}
    if len(first) < count:
        row = next(n for n, value in enumerate(values) if first[value] != n)
        raise DataError(f"{path} row {row}: the id {shown(values[row])} appears twice")
    return ids if ids.dtype.kind == "O" else ids.astype(np.int64)


def _open(path: Path) -> pq.ParquetFile:
    """Open the file and check the sizes that its metadata state, before a row is read."""
    refuse_pickle(path)
    try:
        file = pq.ParquetFile(path)
        metadata = file.metadata
        rows, columns = metadata.num_rows, metadata.num_columns
        groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
        stated = sum(group.num_rows for group in groups)
        unpacked = sum(group.total_byte_size for group in groups)
    except Exception as error:  # pyarrow raises many types
        raise DataError(f"{path}: not a whole parquet file ({reason(error)})") from None
    if columns > MOST_COLUMNS or rows < 0 or stated != rows:
        raise DataError(
            f"{path}: not a whole parquet file ({columns:,} columns, {rows:,} and {stated:,} rows)"
        )
    check_values(path, rows * max(columns, 1))
    check_unpacked(path, unpacked)
    return file


def _read(
    path: Path, required: Sequence[str] = (), optional: Sequence[str] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Read column name -> (N,) values: numbers, booleans, or text as objects.

    Args:
        path: the file.
        required: columns that must exist.
        optional: columns that are read if they exist; None reads all.
    """
    file = _open(path)
    schema = file.schema_arrow
    for name in required:
        if name not in schema.names:
            raise DataError(f"{path}: no column {name!r}; it has {listed(schema.names)}")
    names = [n for n in schema.names if optional is None or n in (*required, *optional)]
    if len(set(names)) != len(names):
        raise DataError(f"{path}: a column name appears twice: {listed(names)}")
    texts = []
    for name in names:
        kind = schema.field(name).type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            texts.append(name)
        elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise DataError(f"{path}: column {shown(name)} is {str(kind)[:40]}, expected numbers or text")
    try:
        # A dictionary stores each text once, so a long text in every row does not fill the memory.
        file = pq.ParquetFile(path, read_dictionary=texts)
        table = file.read(columns=names)
        values = {name: _numpy(table.column(name)) for name in names}
    except Exception as error:
        raise DataError(f"{path}: not a whole parquet file ({reason(error)})") from None
    if table.num_rows != file.metadata.num_rows:
        raise DataError(f"{path}: not a whole parquet file ({table.num_rows:,} rows are there)")
    return values


def _numpy(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Return the values (N,); a missing number is NaN, a missing text None."""
    if not pa.types.is_dictionary(column.type):
        values: npt.NDArray[Any] = column.to_numpy()
        return values
    parts = [np.zeros(0, dtype=object)]
    for chunk in column.chunks:
        words = np.empty(len(chunk.dictionary) + 1, dtype=object)  # the last one, at index -1, is None
        words[:-1] = chunk.dictionary.to_pylist()
        parts.append(words[chunk.indices.fill_null(-1).to_numpy()])
    return np.concatenate(parts)


def _kind(values: npt.NDArray[Any]) -> str:
    return "text" if values.dtype.kind == "O" else str(values.dtype)


def _ids(path: Path, name: str, values: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Return the values as int64; raise an error unless they are whole numbers in 0..count - 1."""
    if values.dtype.kind not in "iu":
        if values.dtype.kind == "f" and not (whole := values == np.floor(values)).all():
            row = int(np.flatnonzero(~whole)[0])
            raise DataError(f"{path} row {row}: {name} {values[row]} is not a whole number")
        raise DataError(f"{path}: column {name!r} is {_kind(values)}, expected whole numbers")
    if (wrong := (values < 0) | (values >= count)).any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{path} row {row}: {name} {values[row]} is outside 0..{count - 1} (num_{name}s)")
    return values.astype(np.int64)


def _finite(path: Path, name: str, values: npt.NDArray[Any], hint: str = "") -> npt.NDArray[np.float64]:
    """Return the values as float64; raise an error unless they are finite numbers."""
    if values.dtype.kind not in "iuf":
        raise DataError(f"{path}: column {name!r} is {_kind(values)}, expected numbers")
    if (wrong := ~np.isfinite(values)).any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{path} row {row}: {name} is {values[row]}, expected a finite number{hint}")
    return values.astype(np.float64)
