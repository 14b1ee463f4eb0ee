"""A data set to disk in canonical form: written beside its place, swapped in whole, nothing lost unasked."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from refit_env.data.canonical import INFO, INTERACTIONS, ITEM_IDS, ITEMS, SOCIAL, USER_IDS
from refit_env.data.catalog import CATALOG
from refit_env.data.dataset import SPLITS, Dataset
from refit_env.data.messages import spelled
from refit_env.errors import DataError
from refit_env.utils.atomic_io import errors_name, write_json
from refit_env.utils.folders import atomic_folder

FILES = (INTERACTIONS, SOCIAL, ITEMS, USER_IDS, ITEM_IDS, INFO)
"""All that a canonical folder may hold."""

_NAME = re.compile(r"\w[\w .+-]{0,99}")
_TAKEN = ("raw", "synthetic")


def check_name(name: str) -> None:
    """Refuse a name that is no plain name of a folder in the data home.

    Raises:
        DataError: if it is empty, hidden, a path, longer than 100 characters, or means something else.

    Example:
        >>> check_name("x/y")
        Traceback (most recent call last):
            ...
        refit_env.errors.DataError: 'x/y' cannot name a data set; take letters and digits, then also . _ + -
    """
    if not _NAME.fullmatch(name):
        raise DataError(f"{name[:40]!r} cannot name a data set; take letters and digits, then also . _ + -")
    if name in _TAKEN:
        raise DataError(f"{name!r} cannot name a data set; the data home uses that name itself")


def check_own_name(name: str) -> None:
    """Refuse a name of the catalogue for what none of its recipes made.

    Raises:
        DataError: see also ``check_name``.
    """
    check_name(name)
    if name in CATALOG:
        raise DataError(
            f"{name!r} is a known data set, and only its recipes make it; give this one another name"
        )


def check_free(folder: Path | str, overwrite: bool) -> None:
    """Refuse a folder whose content would be lost.

    Args:
        folder: where a data set is to be written.
        overwrite: whether a data set that is there may be replaced.

    Raises:
        DataError: if it is a file, holds other things than a data set, or a data set that must stay.
    """
    folder = Path(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; a data set is a folder")
    there = sorted(path.name for path in folder.iterdir())
    others = [name for name in there if not _is_ours(name)]
    if others:
        more = " ..." if len(others) > 3 else ""
        raise DataError(
            f"{folder}: holds {', '.join(others[:3])}{more}, which is no part of a data set; choose a folder "
            "that is new or empty"
        )
    if there and not overwrite:
        raise DataError(f"{folder}: a data set is there already; {spelled('overwrite', 'True')} replaces it")


def save_dataset(dataset: Dataset, folder: Path | str, *, overwrite: bool = False) -> Path:
    """Write a data set in canonical form.

    It is written beside the folder and takes its place when all of it is there: whatever happens, the folder
    holds the old data set or the new one, whole.

    Args:
        dataset: the data set.
        folder: a folder that is not there yet, is empty, or, with ``overwrite``, holds a data set.
        overwrite: whether a data set that is there is replaced.

    Returns:
        The folder.

    Raises:
        DataError: if the folder holds what would be lost; nothing is changed then.
        OSError: naming the folder, if it cannot be written; likewise.
    """
    folder = Path(folder)
    check_free(folder, overwrite)
    with errors_name(folder), atomic_folder(folder) as new:
        check_free(folder, overwrite)  # again: another process may have written while this one waited
        tables = _tables(dataset)
        sums = {}
        for file, table in tables.items():
            table.to_parquet(new / file, index=False)
            sums[file] = hashlib.sha256((new / file).read_bytes()).hexdigest()
        write_json(new / INFO, _info(dataset, [str(name) for name in tables[INTERACTIONS].columns], sums))
    return folder


def _is_ours(name: str) -> bool:
    """Whether a file is one of a canonical folder, or what a killed writer left of one."""
    return name in FILES or any(name.startswith(f".{file}.") for file in FILES)


def _tables(dataset: Dataset) -> dict[str, pd.DataFrame]:
    """File name -> table."""
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
    if dataset.item_features is not None:
        known = {"item": np.arange(dataset.num_items, dtype=np.int32), **dataset.item_features}
        tables[ITEMS] = pd.DataFrame(known)
    for file, ids in ((USER_IDS, dataset.user_ids), (ITEM_IDS, dataset.item_ids)):
        if ids is not None:
            tables[file] = pd.DataFrame({"id": ids})
    return tables


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
