"""The canonical form on disk: a folder with parquet tables and ``dataset.json``.

``interactions.parquet`` has int columns user and item, split (0 train, 1 valid, 2 test), and where known
timestamp (seconds) and rating; ``social.parquet`` two user columns. The rows of a user stand in order of time
where time is known. ``dataset.json`` states the counts, the source, the licence and the tables' checksums.

Letters: U users, I items, N interactions, S social edges.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from refit_env.data.catalog import CATALOG
from refit_env.data.dataset import SPLITS, Dataset, Interactions
from refit_env.errors import DataError
from refit_env.files import atomic_path, read_json, write_json

INTERACTIONS, SOCIAL, INFO = "interactions.parquet", "social.parquet", "dataset.json"


def is_canonical(folder: Path) -> bool:
    """Whether the folder claims to be in canonical form."""
    return (folder / INFO).is_file() and (folder / INTERACTIONS).is_file()


def load_canonical(folder: Path | str) -> Dataset:
    """Read a canonical folder and check it.

    Raises:
        DataError: if a file is missing, damaged, not what its checksum says, or breaks a rule; the message
            names file, row and rule.
    """
    folder = Path(folder)
    info = read_json(folder / INFO)
    path = folder / INTERACTIONS
    verify_checksums(folder, info)
    table = _read_parquet(path)
    users, items = _ids(path, table, info)
    split = _column(path, table, "split").to_numpy()
    if (wrong := ~np.isin(split, (0, 1, 2))).any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{path} row {row}: split is {split[row]}, expected 0 (train), 1 (valid) or 2 (test)")
    timestamps = table["timestamp"].to_numpy(np.float64) if "timestamp" in table else None
    ratings = table["rating"].to_numpy(np.float32) if "rating" in table else None
    if timestamps is not None:
        if np.isnan(timestamps).any():
            raise DataError(f"{path} row {int(np.flatnonzero(np.isnan(timestamps))[0])}: timestamp is NaN")
        order = np.lexsort((timestamps, users))  # stable: equal times keep the order of the file
        users, items, split = users[order], items[order], split[order]
        timestamps = timestamps[order]
        ratings = None if ratings is None else ratings[order]
    num_users, num_items = int(info["num_users"]), int(info["num_items"])
    parts = [
        Interactions.from_pairs(
            users[split == s],
            items[split == s],
            num_users,
            num_items,
            None if timestamps is None else timestamps[split == s],
            None if ratings is None else ratings[split == s],
        )
        for s in range(len(SPLITS))
    ]
    _check_splits(path, parts, info)
    name = str(info.get("name", folder.name))
    known = CATALOG.get(name)
    ordered = bool(info.get("time_ordered", known.time_ordered if known else False)) or timestamps is not None
    return Dataset(name, str(info.get("task", "cf")), *parts, ordered, _social(folder, num_users), info)


def save_dataset(dataset: Dataset, folder: Path | str) -> Path:
    """Write a data set in canonical form; each file is renamed into place, ``dataset.json`` last.

    Returns:
        The folder.
    """
    folder = Path(folder)
    parts = [dataset.train, dataset.valid, dataset.test]
    columns: dict[str, Any] = {
        "user": np.concatenate([p.users for p in parts]).astype(np.int32),
        "item": np.concatenate([p.items for p in parts]),
        "split": np.concatenate([np.full(len(p), s, np.int8) for s, p in enumerate(parts)]),
    }
    for name in ("timestamps", "ratings"):
        values = [getattr(p, name) for p in parts]
        if all(v is not None for v in values):
            columns[name[:-1]] = np.concatenate(values)
    tables = {INTERACTIONS: pd.DataFrame(columns)}
    if dataset.social is not None:
        tables[SOCIAL] = pd.DataFrame(dataset.social, columns=["source", "target"])
    sums = {}
    for file, table in tables.items():
        with atomic_path(folder / file) as temporary:
            table.to_parquet(temporary, index=False)
            sums[file] = hashlib.sha256(temporary.read_bytes()).hexdigest()
    write_json(folder / INFO, _info(dataset, list(columns), sums))
    return folder


def verify_checksums(folder: Path, info: dict[str, Any]) -> None:
    """Compare the files with the checksums in ``dataset.json``; DataError names the file that differs."""
    for file, expected in info.get("sha256", {}).items():
        path = folder / file
        if not path.is_file():
            raise DataError(f"{path}: {INFO} lists this file, but it is not there")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            raise DataError(
                f"{path}: sha256 is {found[:12]}..., {INFO} says {expected[:12]}...; truncated or changed?"
            )


def _info(dataset: Dataset, columns: list[str], sums: dict[str, str]) -> dict[str, Any]:
    """What ``dataset.json`` holds."""
    kept = {k: v for k, v in dataset.meta.items() if k not in ("sha256", "columns")}
    return kept | {
        "name": dataset.name,
        "task": dataset.task,
        "num_users": dataset.num_users,
        "num_items": dataset.num_items,
        "num_interactions": sum(len(dataset.split(s)) for s in SPLITS),
        "num_train": len(dataset.train),
        "num_valid": len(dataset.valid),
        "num_test": len(dataset.test),
        "time_ordered": dataset.time_ordered,
        "columns": columns,
        "social_edges": None if dataset.social is None else len(dataset.social),
        "sha256": sums,
    }


def _read_parquet(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        return pd.read_parquet(path)
    except Exception as error:  # pyarrow raises many kinds; all mean the same to the reader
        raise DataError(f"{path}: not a whole parquet file ({error})") from error


def _column(path: Path, table: pd.DataFrame, name: str) -> pd.Series[Any]:
    if name not in table:
        raise DataError(f"{path}: no column {name!r}; it has {', '.join(map(str, table.columns))}")
    return table[name]


def _ids(
    path: Path, table: pd.DataFrame, info: dict[str, Any]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The user and item columns, whole numbers within the stated counts."""
    out = []
    for name, count in (("user", "num_users"), ("item", "num_items")):
        values = _column(path, table, name).to_numpy()
        if not np.issubdtype(values.dtype, np.integer):
            raise DataError(f"{path}: column {name!r} is {values.dtype}, expected whole numbers")
        if count not in info:
            raise DataError(f"{path.with_name(INFO)}: {count!r} is missing")
        wrong = (values < 0) | (values >= int(info[count]))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"{path} row {row}: {name} {values[row]} is outside 0..{int(info[count]) - 1} ({count})"
            )
        out.append(values.astype(np.int64))
    return out[0], out[1]


def _check_splits(path: Path, parts: list[Interactions], info: dict[str, Any]) -> None:
    """Counts as stated, and something to learn from and to test on."""
    for split, part in zip(SPLITS, parts, strict=True):
        stated = info.get(f"num_{split}")
        if stated is not None and int(stated) != len(part):
            raise DataError(f"{path}: {len(part)} {split} rows, {INFO} says {stated}; truncated?")
        if len(part) == 0:
            raise DataError(f"{path}: the {split} split is empty")
    lost = (parts[0].counts == 0) & ((parts[1].counts > 0) | (parts[2].counts > 0))
    if lost.any() and info.get("task", "cf") == "cf":
        user = int(np.flatnonzero(lost)[0])
        raise DataError(
            f"{path}: user {user} has no train items, so nothing can be predicted from ({int(lost.sum())} such)"
        )


def _social(folder: Path, num_users: int) -> npt.NDArray[np.int32] | None:
    """(S, 2) int32 directed user pairs, or None."""
    path = folder / SOCIAL
    if not path.is_file():
        return None
    edges = _read_parquet(path).to_numpy()
    if edges.ndim != 2 or edges.shape[1] != 2 or not np.issubdtype(edges.dtype, np.integer):
        raise DataError(
            f"{path}: expected two columns of user ids, found shape {edges.shape} of {edges.dtype}"
        )
    if edges.size and (edges.min() < 0 or edges.max() >= num_users):
        row = int(np.flatnonzero(((edges < 0) | (edges >= num_users)).any(1))[0])
        raise DataError(f"{path} row {row}: users {edges[row].tolist()} are outside 0..{num_users - 1}")
    return edges.astype(np.int32)
