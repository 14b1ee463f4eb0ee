"""Writes data sets in canonical form: atomically, and without replacing files unless ``overwrite`` is set."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from refit_env.data.canonical import (
    DISLIKES,
    INFO,
    INTERACTIONS,
    ITEM_IDS,
    ITEMS,
    SOCIAL,
    TABLES,
    USER_IDS,
    check_dataset,
)
from refit_env.data.catalog import CATALOG
from refit_env.data.dataset import Dataset
from refit_env.data.interactions import SPLITS, Interactions
from refit_env.data.messages import spelled
from refit_env.errors import DataError
from refit_env.settings import check_kind
from refit_env.utils.atomic_io import errors_name, write_json
from refit_env.utils.folders import atomic_folder
from refit_env.utils.text import shown

FILES = (*TABLES, INFO)
"""All files that a canonical folder may hold."""

LONGEST_NAME = 100
_NAME = re.compile(r"\w[\w .+-]*")
_RESERVED = ("raw", "synthetic")


def check_name(name: str) -> None:
    """Raise an error for a name that is not a plain folder name in the data home.

    Raises:
        DataError: if it is empty, hidden, a path, longer than 100 characters, or reserved.

    Example:
        >>> check_name("x/y")
        Traceback (most recent call last):
            ...
        refit_env.errors.DataError: 'x/y' cannot name a data set; use letters and digits, then also . _ + -
    """
    if len(name) > LONGEST_NAME:
        raise DataError(
            f"{shown(name)} cannot name a data set; it has {len(name)} characters, at most {LONGEST_NAME} "
            "are allowed"
        )
    if not _NAME.fullmatch(name):
        raise DataError(f"{name[:40]!r} cannot name a data set; use letters and digits, then also . _ + -")
    if _folded(name) in _RESERVED:
        raise DataError(f"{name!r} cannot name a data set; the data home reserves that name")
    known = {_folded(one): one for one in CATALOG}.get(_folded(name), name)
    if known != name:
        raise DataError(
            f"{name!r} cannot name a data set; it is the known data set {known!r} in other letters. Write "
            f"{known}, or choose another name"
        )


def _folded(name: str) -> str:
    """Return a name as file systems compare it that ignore capitals and the form of accents."""
    return unicodedata.normalize("NFC", name).casefold()


def check_own_name(name: str) -> None:
    """Raise an error for a catalogue name, which only the catalogue's recipes may use.

    Raises:
        DataError: for a name of the catalogue, or one that ``check_name`` refuses.
    """
    check_name(name)
    if name in CATALOG:
        raise DataError(f"{name!r} is a known data set, which only its recipes create; choose another name")


def check_free(folder: Path | str, overwrite: bool) -> None:
    """Raise an error for a folder whose content would be lost.

    Args:
        folder: the folder to write a data set to.
        overwrite: whether a data set in the folder may be replaced.

    Raises:
        DataError: if it is a file, holds other files than a data set's, or holds a data set that must not be
            replaced.
        SettingError: if ``overwrite`` is no bool.
    """
    check_kind("overwrite", overwrite, bool)
    folder = Path(folder)
    _check_neighbours(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; a data set is a folder")
    there = sorted(path.name for path in folder.iterdir())
    others = [name for name in there if not _is_ours(name)]
    if others:
        more = " ..." if len(others) > 3 else ""
        raise DataError(
            f"{folder}: holds {', '.join(others[:3])}{more}, not part of a data set; choose a new or empty "
            "folder"
        )
    if there and not overwrite:
        raise DataError(f"{folder}: a data set is there already; {spelled('overwrite', 'True')} replaces it")


def _check_neighbours(folder: Path) -> None:
    """Raise an error if a data set beside a folder has the same name in other letters."""
    beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
    for other in beside:
        same = other.name != folder.name and _folded(other.name) == _folded(folder.name)
        if same and (other / INFO).is_file():
            raise DataError(
                f"{folder}: the data set {other.name!r} is beside it, and many file systems take the two "
                "names for one; choose another name"
            )


def save_dataset(dataset: Dataset, folder: Path | str, *, overwrite: bool = False) -> Path:
    """Write a data set in canonical form.

    The data set is written to a temporary folder beside ``folder``, then moved: at any time the folder holds
    the complete old data set or the complete new one.

    Args:
        dataset: the data set.
        folder: a folder that does not exist, is empty, or, with ``overwrite``, holds a data set.
        overwrite: whether to replace a data set in the folder.

    Returns:
        The folder.

    Raises:
        DataError: if files in the folder would be lost, or the data set could not be loaded again (an empty
            split); nothing has been changed.
        OSError: naming the folder, if it is not writable; nothing has been changed.
    """
    folder = Path(folder)
    check_free(folder, overwrite)
    check_dataset(dataset, str(folder))  # what cannot be loaded is not written
    with errors_name(folder), atomic_folder(folder) as new:
        check_free(folder, overwrite)  # again: another process may have written it while this one waited
        tables = _tables(dataset)
        sums = {}
        for file, table in tables.items():
            table.to_parquet(new / file, index=False)
            sums[file] = hashlib.sha256((new / file).read_bytes()).hexdigest()
        write_json(new / INFO, _info(dataset, [str(name) for name in tables[INTERACTIONS].columns], sums))
    return folder


def _is_ours(name: str) -> bool:
    """Return whether a file belongs to a canonical folder, or is a temporary file of a killed process."""
    return name in FILES or any(name.startswith(f".{file}.") for file in FILES)


def _tables(dataset: Dataset) -> dict[str, pd.DataFrame]:
    """Return file name -> table."""
    tables = {INTERACTIONS: _rows([dataset.train, dataset.valid, dataset.test])}
    if dataset.dislikes is not None:
        tables[DISLIKES] = _rows(dataset.dislikes)
    if dataset.social is not None:
        tables[SOCIAL] = pd.DataFrame(dataset.social, columns=["source", "target"])
    if dataset.item_features is not None:
        known = {"item": np.arange(dataset.num_items, dtype=np.int32), **dataset.item_features}
        tables[ITEMS] = pd.DataFrame(known)
    for file, ids in ((USER_IDS, dataset.user_ids), (ITEM_IDS, dataset.item_ids)):
        if ids is not None:
            tables[file] = pd.DataFrame({"id": ids})
    return tables


def _rows(parts: Sequence[Interactions]) -> pd.DataFrame:
    """Return the table of interactions or dislikes: train, valid and test."""
    columns: dict[str, Any] = {
        "user": np.concatenate([p.users for p in parts]).astype(np.int32),
        "item": np.concatenate([p.items for p in parts]),
        "split": np.concatenate([np.full(len(p), s, np.int8) for s, p in enumerate(parts)]),
    }
    for name in ("timestamps", "ratings"):
        values = [getattr(p, name) for p in parts]
        if all(v is not None for v in values):
            columns[name[:-1]] = np.concatenate(values)
    return pd.DataFrame(columns)


def _info(dataset: Dataset, columns: list[str], sums: dict[str, str]) -> dict[str, Any]:
    """Return the fields of ``dataset.json``."""
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
        "mixed_validation": dataset.mixed_validation,
        "columns": columns,
        "social_edges": None if dataset.social is None else len(dataset.social),
        "sha256": sums,
    }
