"""Data sets as Arrow files that are mapped into memory: the kernel reads what is used, and frees it again.

A folder of this form holds ``mapped.json``, and of each split two Arrow files of one record batch: the places
of the users' rows, and the rows with item, timestamp and rating where known. ``write_mapped`` appends users
range by range, so that a data set that does not fit into memory can be written; ``load_mapped`` returns a
data set whose arrays are views of the files. ``Dataset.part`` of it is a range of its users, without a copy.

Letters: U users, I items, N interactions of a split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc as ipc

from refit_env.data.dataset import Dataset
from refit_env.data.interactions import SPLITS, Interactions
from refit_env.data.limits import LARGEST_COUNT, LARGEST_INFO
from refit_env.errors import DataError
from refit_env.utils.atomic_io import errors_name, read_record, write_json
from refit_env.utils.folders import atomic_folder

INFO = "mapped.json"
COLUMNS: dict[str, type[np.generic]] = {"item": np.int32, "timestamp": np.float64, "rating": np.float32}
"""Columns of the rows and their types; all but the first may be missing."""


class MappedInfo(msgspec.Struct):
    """The fields of ``mapped.json``."""

    name: str
    num_users: int
    num_items: int
    time_ordered: bool
    fingerprint: str
    columns: dict[str, list[str]]
    """Split -> names of its columns."""
    meta: dict[str, Any] = {}
    mixed_validation: bool = False
    """``Dataset.mixed_validation``."""


def is_mapped(folder: Path) -> bool:
    """Return whether the folder holds a data set of this form."""
    return (folder / INFO).is_file()


def write_mapped(parts: Iterable[Dataset], folder: Path | str) -> Path:
    """Write a data set, given as ranges of its users in order, to a folder of Arrow files.

    One range at a time is in memory. The fingerprint is that of the arrays of the ranges, in order.

    Args:
        parts: sets of items of the task ``cf`` with the same items and columns; the users of each follow
            those of the one before.
        folder: a folder that does not exist, or is empty.

    Returns:
        The folder.

    Raises:
        DataError: if the folder holds files, or a range cannot follow the one before; nothing is written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is not empty; a mapped data set needs a new folder")
    with errors_name(folder), atomic_folder(folder) as new:
        writer = _Writer(new)
        with writer.files:
            for part in parts:
                writer.add(part)
        if writer.first is None:
            raise DataError(f"{folder}: no users were given")
        info = writer.finish()
        write_json(new / INFO, msgspec.to_builtins(info))
    return folder


class _Writer:
    """Appends ranges of users to plain files, then makes Arrow files of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, ExitStack()
        self.first: Dataset | None = None
        self.users = 0
        self._ends = dict.fromkeys(SPLITS, 0)
        self._open: dict[tuple[str, str], BinaryIO] = {}
        self._digest = hashlib.sha256(b"refit-env mapped 1")

    def add(self, part: Dataset) -> None:
        """Append the users of ``part``."""
        if self.first is None:
            self.first = part
        self._check(part)
        for split in SPLITS:
            rows = part.split(split)
            places = rows.indptr[1:] + self._ends[split]
            self._append(split, "end", places.astype(np.int64))
            for name, values in _columns_of(rows).items():
                self._append(split, name, values)
            self._ends[split] += len(rows)
        self.users += part.num_users

    def _check(self, part: Dataset) -> None:
        """Refuse a range that cannot follow the first one."""
        first = self.first
        assert first is not None
        if part.task != "cf" or part.social is not None or part.dislikes is not None:
            raise DataError(
                f"{part.name!r} cannot be mapped: it must be of task 'cf', without social edges and dislikes"
            )
        if part.num_items != first.num_items:
            raise DataError(f"{part.name!r} has {part.num_items} items, the users before {first.num_items}")
        found, wanted = ([list(_columns_of(data.split(split))) for split in SPLITS] for data in (part, first))
        if found != wanted:
            raise DataError(f"{part.name!r} has the columns {found}, the users before {wanted}")

    def _append(self, split: str, column: str, values: npt.NDArray[Any]) -> None:
        key = split, column
        if key not in self._open:
            self._open[key] = self.files.enter_context((self.folder / f"{split}.{column}").open("wb"))
        plain = np.ascontiguousarray(values)
        self._digest.update(f"|{split} {column} {plain.size}|".encode())
        self._digest.update(plain.data)
        plain.tofile(self._open[key])

    def finish(self) -> MappedInfo:
        """Make the Arrow files; returns what describes them."""
        assert self.first is not None
        columns: dict[str, list[str]] = {}
        for split in SPLITS:
            names = [name for owner, name in self._open if owner == split and name != "end"]
            kinds = {name: COLUMNS[name] for name in names}
            self._arrow(split, f"{split}-users.arrow", {"end": np.int64})
            self._arrow(split, f"{split}-rows.arrow", kinds)
            columns[split] = names
        first = self.first
        return MappedInfo(
            first.name,
            self.users,
            first.num_items,
            first.time_ordered,
            self._digest.hexdigest(),
            columns,
            {name: value for name, value in first.meta.items() if name not in ("sha256", "columns")},
            first.mixed_validation,
        )

    def _arrow(self, split: str, file: str, kinds: dict[str, type[np.generic]]) -> None:
        """Write one Arrow file of plain files, which are mapped meanwhile and removed then."""
        paths = {name: self.folder / f"{split}.{name}" for name in kinds}
        arrays = {name: _plain(path, kinds[name]) for name, path in paths.items()}
        table = pa.table({name: pa.array(values) for name, values in arrays.items()})
        with pa.OSFile(str(self.folder / file), "wb") as out, ipc.new_file(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=max(1, table.num_rows))
        for path in paths.values():
            path.unlink()


def _plain(path: Path, kind: type[np.generic]) -> npt.NDArray[Any]:
    """Return the numbers of a plain file, mapped."""
    return np.memmap(path, kind, "r") if path.stat().st_size else np.zeros(0, kind)


def _columns_of(rows: Interactions) -> dict[str, npt.NDArray[Any]]:
    """Return the columns (N,) of interactions by name."""
    known = {"item": rows.items, "timestamp": rows.timestamps, "rating": rows.ratings}
    return {name: values.astype(COLUMNS[name]) for name, values in known.items() if values is not None}


def load_mapped(folder: Path | str) -> Dataset:
    """Return a data set whose arrays are read-only views of the folder's files.

    Raises:
        DataError: if a file is missing or damaged, or the files do not fit together.
    """
    folder = Path(folder)
    info = read_record(folder / INFO, MappedInfo, limit=LARGEST_INFO)
    for name, count in (("num_users", info.num_users), ("num_items", info.num_items)):
        if not 1 <= count <= LARGEST_COUNT:
            raise DataError(f"{folder / INFO}: {name} is {count}, expected 1..{LARGEST_COUNT}")
    train, valid, test = (_split(folder, split, info) for split in SPLITS)
    meta = info.meta | {"mapped": str(folder)}
    mixed, own = info.mixed_validation, info.fingerprint
    return Dataset(
        info.name, "cf", train, valid, test, info.time_ordered, meta=meta, origin=own, mixed_validation=mixed
    )


def _split(folder: Path, split: str, info: MappedInfo) -> Interactions:
    """Return a split, its arrays mapped; the places of the users' rows are in memory."""
    path = folder / f"{split}-rows.arrow"
    [ends] = _mapped(folder / f"{split}-users.arrow", ["end"], {"end": np.int64})
    names = info.columns.get(split, [])
    if names[:1] != ["item"]:
        raise DataError(f"{folder / INFO}: columns of {split} must begin with 'item', found {names}")
    arrays = dict(zip(names, _mapped(path, names, COLUMNS), strict=True))
    indptr = np.concatenate([np.zeros(1, np.int64), ends])
    if ends.size != info.num_users or int(indptr[-1]) != arrays["item"].size or (np.diff(indptr) < 0).any():
        raise DataError(
            f"{path}: the rows of {info.num_users} users must be its {arrays['item'].size} rows, in order"
        )
    for items in _blocks(arrays["item"]):
        if items.size and not 0 <= int(items.min()) <= int(items.max()) < info.num_items:
            raise DataError(f"{path}: an item is outside 0..{info.num_items - 1}")
    return Interactions(indptr, arrays["item"], info.num_items, arrays.get("timestamp"), arrays.get("rating"))


def _blocks(values: npt.NDArray[Any], size: int = 2**22) -> Iterator[npt.NDArray[Any]]:
    """Yield consecutive parts of an array."""
    return (values[first : first + size] for first in range(0, values.size, size))


def _mapped(path: Path, names: list[str], kinds: dict[str, type[np.generic]]) -> list[npt.NDArray[Any]]:
    """Return the columns ``names`` of an Arrow file, mapped into memory."""
    try:
        table = ipc.open_file(pa.memory_map(str(path))).read_all()
        return [
            np.zeros(0, kinds[name])
            if not table.num_rows
            else table.column(name).chunk(0).to_numpy(zero_copy_only=True).astype(kinds[name], copy=False)
            for name in names
        ]
    except (OSError, KeyError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0][:100]
        raise DataError(
            f"{path}: no whole Arrow file with the columns {', '.join(names)} ({reason})"
        ) from None
