"""Reads the published pickles of RecDiff and DreamRec without running their code.

Letters: N rows, U users or sessions, I items, S social edges, L length of a stored history.
"""

from __future__ import annotations

import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from refit_env.data.filters import RawRows
from refit_env.data.limits import LARGEST_COUNT, MOST_COLUMNS, check_unpacked, check_values
from refit_env.data.messages import listed, reason
from refit_env.data.readers.delimited import refuse_pickle
from refit_env.data.readers.file_lookup import all_files
from refit_env.data.readers.header_tables import ReadOptions
from refit_env.data.readers.safe_unpickle import (
    Array,
    Block,
    BlockManager,
    CooMatrix,
    DataFrame,
    Index,
    Inert,
    read_inert,
)
from refit_env.errors import DataError
from refit_env.utils.text import shown

IntArray = npt.NDArray[np.int64]

RECDIFF_FILES = ("dataset.pkl", "dataset.pkl.zip")
DREAMREC_FILES = (
    ("train_data.df", "Train_data.df"),
    ("val_data.df", "Val_data.df"),
    ("test_data.df", "Test_data.df"),
)
STATISTICS = "data_statis.df"
"""DreamRec's table with the length of histories and the number of items; used if it exists."""


def read_recdiff(source: Path, options: ReadOptions) -> RawRows:
    """Read rows and social edges of RecDiff's ``dataset.pkl``, or of the zip archive that contains it.

    Raises:
        DataError: if the file is damaged, would run code, or does not hold the expected matrices.
    """
    path = source if source.is_file() else all_files(source, (RECDIFF_FILES,))[0]
    with ExitStack() as stack:
        stored = read_inert(path, _open_pickle(path, stack))
    if not isinstance(stored, dict):
        raise DataError(f"{path}: expected a dictionary of matrices, found {type(stored).__name__}")
    counts = [stored.get(name) for name in ("userCount", "itemCount")]
    if not all(type(count) is int and 0 < count <= LARGEST_COUNT for count in counts):
        found = " and ".join(shown(count) for count in counts)
        raise DataError(f"{path}: 'userCount' and 'itemCount' should be whole numbers, found {found}")
    num_users, num_items = int(counts[0] or 0), int(counts[1] or 0)
    parts = [_pairs(path, stored, name, (num_users, num_items)) for name in ("train", "val", "test")]
    trust = _pairs(path, stored, "trust", (num_users, num_users))
    pairs = np.concatenate(parts)  # (N, 2)
    split = np.repeat(np.arange(3, dtype=np.int8), [len(part) for part in parts])
    trust = np.unique(trust[trust[:, 0] != trust[:, 1]], axis=0)  # (S, 2)
    return RawRows(pairs[:, 0], pairs[:, 1], split=split, social=trust, shape=(num_users, num_items))


def _open_pickle(path: Path, stack: ExitStack) -> IO[bytes]:
    """Open the pickle, inside its zip archive if it has one."""
    with path.open("rb") as file:
        packed = file.read(4) == b"PK\x03\x04"
    if not packed:
        return stack.enter_context(path.open("rb"))
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
        inside = [
            name for name in archive.namelist() if name.endswith("dataset.pkl") and "__MACOSX" not in name
        ]
        if len(inside) == 1:
            check_unpacked(path, archive.getinfo(inside[0]).file_size)
            return stack.enter_context(archive.open(inside[0]))
    except DataError:
        raise
    except Exception as error:  # a damaged archive can fail in any way
        raise DataError(f"{path}: not a whole zip archive ({reason(error)})") from None
    raise DataError(f"{path}: expected one dataset.pkl in the archive, found {len(inside)}")


def _pairs(path: Path, stored: dict[Any, Any], name: str, shape: tuple[int, int]) -> IntArray:
    """Return row and column (N, 2) of each nonzero value of a matrix."""
    matrix = stored.get(name)
    if not isinstance(matrix, CooMatrix) or not isinstance(matrix.state, dict):
        raise DataError(f"{path}: {name!r} should be a matrix in coordinate form")
    state = matrix.state
    coordinates = state.get("coords", (state.get("row"), state.get("col")))
    if not isinstance(coordinates, tuple) or len(coordinates) != 2:
        raise DataError(f"{path}: {name!r} should have rows and columns, found {shown(coordinates)}")
    stated = state.get("_shape")
    if stated != shape:
        found = ", ".join(map(shown, stated[:3])) if isinstance(stated, tuple) else shown(stated)
        raise DataError(f"{path}: {name!r} is of shape ({found}), expected {shape}")
    kinds = ("iu", "iu", "biuf")
    columns = [
        _numbers(path, name, values, kind)
        for values, kind in zip((*coordinates, state.get("data")), kinds, strict=True)
    ]
    if len({column.shape for column in columns}) != 1:
        raise DataError(f"{path}: the rows, columns and values of {name!r} differ in number")
    pairs: IntArray = np.stack(columns[:2], axis=1).astype(np.int64)  # (N, 2)
    if pairs.size and (pairs.min() < 0 or (pairs.max(axis=0) >= shape).any()):
        raise DataError(f"{path}: {name!r} has a value outside its shape {shape}")
    kept: IntArray = pairs[columns[2] != 0]
    return kept


def _numbers(path: Path, name: str, values: Any, kinds: str) -> npt.NDArray[Any]:
    if not isinstance(values, Array) or not hasattr(values, "value") or values.value.dtype.kind not in kinds:
        raise DataError(f"{path}: {name!r} should hold numbers")
    return values.value.reshape(-1)


def read_dreamrec(source: Path, options: ReadOptions) -> RawRows:
    """Read DreamRec's ``train_data.df``, ``val_data.df`` and ``test_data.df``; sessions are users.

    Each row of a file is one position of a session: ``next`` is its item, ``seq`` the L items before it,
    padded with the pad item; a row with only pad items begins a session. The reader rebuilds the sessions,
    and compares each history with the items of the rows before it.

    Raises:
        DataError: if a file is missing, damaged, would run code, or a history differs from the rows before
            it.
    """
    paths = all_files(source, DREAMREC_FILES)
    tables = [_table(path) for path in paths]
    pad = _pad_item(paths[0].parent / STATISTICS, tables)
    users, items, counts = [], [], []
    begun = 0
    for path, (histories, targets) in zip(paths, tables, strict=True):
        sessions = _sessions(path, histories, targets, pad)
        users.append(begun + sessions)
        items.append(targets)
        counts.append(targets.size)
        begun += int(sessions.max()) + 1
    split = np.repeat(np.arange(3, dtype=np.int8), counts)
    return RawRows(np.concatenate(users), np.concatenate(items), split=split, shape=(begun, pad))


def _pad_item(statistics: Path, tables: list[tuple[IntArray, IntArray]]) -> int:
    """Return the pad item, the number after the last item's: as stated, or the largest in all histories."""
    if not statistics.is_file():
        return max(int(histories.max()) for histories, _ in tables)
    columns = _frame(statistics)
    if "item_num" not in columns or len(columns["item_num"]) != 1:
        raise DataError(f"{statistics}: expected one row with 'item_num', found {listed(columns)}")
    return int(_whole(statistics, "item_num", columns["item_num"])[0])


def _table(path: Path) -> tuple[IntArray, IntArray]:
    """Read the histories (N, L) and the targets (N,) of a file."""
    columns = _frame(path)
    missing = [name for name in ("seq", "len_seq", "next") if name not in columns]
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r}; it has {listed(columns)}")
    targets = _whole(path, "next", columns["next"])
    lengths = {len(row) if isinstance(row, list) else -1 for row in columns["seq"]}
    if len(lengths) != 1 or min(lengths) < 1:
        found = listed(map(str, sorted(lengths))) or "none"
        raise DataError(f"{path}: the histories in 'seq' should be lists of one length, found {found}")
    check_values(path, targets.size * max(lengths))  # all rows may share one list
    flat = np.fromiter((item for row in columns["seq"] for item in row), dtype=object)
    return _whole(path, "seq", flat).reshape(targets.size, -1), targets


def _sessions(path: Path, histories: IntArray, targets: IntArray, pad: int) -> IntArray:
    """Return the session number (N,) of each row, from 0."""
    size = histories.shape[1]
    sessions = np.empty(targets.size, dtype=np.int64)
    seen: list[int] = []
    number = -1
    for row, (history, target) in enumerate(zip(histories.tolist(), targets.tolist(), strict=True)):
        if history[0] == pad:
            seen, number = [], number + 1
        if number < 0 or history != (seen[-size:] + [pad] * size)[:size]:
            raise DataError(f"{path} row {row}: the history differs from the items of the rows before it")
        if target >= pad:
            raise DataError(f"{path} row {row}: next is {target}, items must be below the pad item {pad}")
        seen.append(target)
        sessions[row] = number
    return sessions


def _frame(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read column name -> (N,) values of a pickled data frame."""
    if not path.is_file():
        refuse_pickle(path)  # raises the error for a missing file
    with path.open("rb") as file:
        frame = read_inert(path, file)
    try:
        return _columns(frame)
    except Exception as error:
        raise DataError(f"{path}: not a table as published by DreamRec ({type(error).__name__})") from None


def _columns(frame: Any) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a data frame's blocks; a damaged frame raises some built-in error."""
    if not isinstance(frame, DataFrame):
        raise TypeError("no data frame")
    manager = frame.state["_mgr" if "_mgr" in frame.state else "_data"]
    if not isinstance(manager, BlockManager):
        raise TypeError("no blocks")
    if manager.args:  # pandas >= 1.3
        blocks, axes = manager.args[0], manager.args[1]
        parts = [block.args[:2] for block in blocks if isinstance(block, Block)]
    else:
        extra = manager.state[3]["0.14.1"]
        axes = extra["axes"]
        parts = [(block["values"], block["mgr_locs"]) for block in extra["blocks"]]
    names = _labels(axes[0]).tolist()
    if not all(type(name) is str for name in names) or max(len(names), len(parts)) > MOST_COLUMNS:
        raise ValueError("columns without names, or too many")
    columns: dict[str, npt.NDArray[Any]] = {}
    for values, places in parts:
        where = range(*places.indices(len(names))) if isinstance(places, slice) else places.value.tolist()
        for n, place in enumerate(where):
            columns[names[place]] = values.value[n]
    if len({values.shape for values in columns.values()}) != 1 or next(iter(columns.values())).ndim != 1:
        raise ValueError("columns of several lengths")
    return columns


def _labels(index: Inert) -> npt.NDArray[Any]:
    """Return the labels (n,) of an axis."""
    if not isinstance(index, Index):
        raise TypeError("no index")
    labels: npt.NDArray[Any] = index.args[0]["data"].value
    return labels


def _whole(path: Path, name: str, values: npt.NDArray[Any]) -> IntArray:
    """Convert numbers (N,) of any type to whole numbers >= 0."""
    plain = values.dtype.kind in "iuf" or all(type(value) in (int, float) for value in values)
    try:
        if not plain:
            raise TypeError
        numbers = values.astype(np.float64)
    except (OverflowError, TypeError):
        raise DataError(f"{path}: {name!r} should hold numbers") from None
    wrong = ~((numbers >= 0) & (numbers < 2**53) & (numbers == np.floor(numbers)))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{path}: {name} {numbers[row]} (value {row}) is not a whole number >= 0")
    return numbers.astype(np.int64)
