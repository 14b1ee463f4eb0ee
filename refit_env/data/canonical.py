"""The canonical form on disk: a folder with parquet tables and ``dataset.json``.

``interactions.parquet`` has int columns user and item, split (0 train, 1 valid, 2 test), and where known
timestamp (seconds) and rating; ``social.parquet`` two user columns; ``items.parquet`` a column item and what
is known of each (lat, lon); ``user_ids.parquet`` and ``item_ids.parquet`` the source's own id of each number.
The rows of a user stand in order of time where time is known. ``dataset.json`` states the counts, the source,
the licence and the tables' checksums.

Letters: U users, I items, N interactions, S social edges.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from refit_env.data.catalog import CATALOG
from refit_env.data.dataset import SPLITS, Dataset, Interactions
from refit_env.data.filters import RawRows, merge_duplicates
from refit_env.data.tables import read_interactions, read_item_features, read_social, read_source_ids
from refit_env.errors import DataError
from refit_env.files import read_json

INTERACTIONS, SOCIAL, INFO = "interactions.parquet", "social.parquet", "dataset.json"
ITEMS = "items.parquet"
USER_IDS, ITEM_IDS = "user_ids.parquet", "item_ids.parquet"


def is_canonical(folder: Path) -> bool:
    """Whether the folder claims to be in canonical form."""
    return (folder / INFO).is_file() and (folder / INTERACTIONS).is_file()


def load_canonical(folder: Path | str) -> Dataset:
    """Read a canonical folder and check it.

    Repeated (user, item) rows of a cf or social set are merged (the first split's row, then the earliest,
    is kept) and counted in ``meta["duplicates_merged"]``.

    Raises:
        DataError: if a file is missing, damaged, not what its checksum says, or breaks a rule; the message
            names file, row and rule.
    """
    folder = Path(folder)
    path = folder / INTERACTIONS
    info = _read_info(folder)
    verify_checksums(folder, info)
    num_users, num_items = int(info["num_users"]), int(info["num_items"])
    rows = read_interactions(path, num_users, num_items)
    _check_counts(path, rows, info)
    name, task = str(info.get("name", folder.name)), str(info.get("task", "cf"))
    if task in ("cf", "social"):
        rows, merged = merge_duplicates(rows)
        info = info | ({"duplicates_merged": merged} if merged else {})
    if rows.timestamps is not None:
        rows = rows.take(
            np.lexsort((rows.timestamps, rows.users))
        )  # stable: equal times keep the file's order
    train, valid, test = (
        Interactions.from_pairs(p.users, p.items, num_users, num_items, p.timestamps, p.ratings)
        for p in (rows.part(s) for s in range(len(SPLITS)))
    )
    known = CATALOG.get(name)
    stated = bool(info.get("time_ordered", known.time_ordered if known else False))
    ordered = stated or rows.timestamps is not None
    social = read_social(folder / SOCIAL, num_users)
    ids = read_source_ids(folder / USER_IDS, num_users), read_source_ids(folder / ITEM_IDS, num_items)
    features = read_item_features(folder / ITEMS, num_items)
    data = Dataset(name, task, train, valid, test, ordered, social, info, *ids, features)
    check_dataset(data, str(path))
    return data


def check_dataset(data: Dataset, where: str) -> None:
    """Refuse a data set that no model can be trained and tested on.

    Args:
        data: the data set.
        where: its file, for the message.

    Raises:
        DataError: for an empty split, or for a user of a cf or social set with nothing to predict from.
    """
    for split in SPLITS:
        if not len(data.split(split)):
            raise DataError(f"{where}: the {split} split is empty; every split needs rows")
    lost = (data.train.counts == 0) & (data.valid.counts + data.test.counts > 0)  # (U,)
    if data.task in ("cf", "social") and lost.any():
        user, others = int(np.flatnonzero(lost)[0]), int(lost.sum()) - 1
        raise DataError(
            f"{where}: user {user} (and {others} others) has no train items, so nothing can be predicted from"
        )


def verify_checksums(folder: Path, info: dict[str, Any]) -> None:
    """Compare the files with the checksums in ``dataset.json``; DataError names the file that differs."""
    for file, expected in info.get("sha256", {}).items():
        path = folder / Path(file).name  # no other folder's
        if not path.is_file():
            raise DataError(f"{path}: {INFO} lists this file, but it is not there")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            raise DataError(
                f"{path}: sha256 is {found[:12]}..., {INFO} says {expected[:12]}...; truncated or changed?"
            )


def _read_info(folder: Path) -> dict[str, Any]:
    """``dataset.json``, with the counts that everything else is checked against."""
    path = folder / INFO
    info = read_json(path)
    if not isinstance(info, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(info).__name__}")
    for name in ("num_users", "num_items"):
        value = info.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DataError(f"{path}: {name!r} must be a whole number >= 1, found {value!r}")
    return info


def _check_counts(path: Path, rows: RawRows, info: dict[str, Any]) -> None:
    """As many rows as stated."""
    for number, split in enumerate(SPLITS):
        stated, found = info.get(f"num_{split}"), len(rows.part(number))
        if stated is not None and stated != found:
            raise DataError(f"{path}: {found} {split} rows, {INFO} says {stated}; truncated?")
