"""The canonical form on disk: a folder with parquet tables and ``dataset.json``.

``interactions.parquet`` has int columns user and item, split (0 train, 1 valid, 2 test), and optionally
timestamp (seconds) and rating; ``dislikes.parquet`` has the same columns, for items that users rated low, no
pair of which is an interaction; ``social.parquet`` has two user columns; ``items.parquet`` has a column item
and the items' features (lat, lon); ``user_ids.parquet`` and ``item_ids.parquet`` map each number to the
source's id. The rows of a user are sorted by time where timestamps are known. ``dataset.json`` states the
counts, the source, the licence and the tables' checksums.

Letters: U users, I items, N interactions, S social edges.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from refit_env.data.catalog import CATALOG
from refit_env.data.dataset import Dataset
from refit_env.data.filters import RawRows, merge_duplicates
from refit_env.data.interactions import SPLITS, Interactions
from refit_env.data.limits import LARGEST_COUNT, LARGEST_INFO, check_count
from refit_env.data.splits import Parts
from refit_env.data.tables import (
    count_rows,
    read_interactions,
    read_item_features,
    read_social,
    read_source_ids,
)
from refit_env.errors import DataError
from refit_env.utils.atomic_io import read_record
from refit_env.utils.text import shown

DISLIKES = "dislikes.parquet"
INTERACTIONS, SOCIAL, INFO = "interactions.parquet", "social.parquet", "dataset.json"
ITEMS = "items.parquet"
USER_IDS, ITEM_IDS = "user_ids.parquet", "item_ids.parquet"


TABLES = (INTERACTIONS, DISLIKES, SOCIAL, ITEMS, USER_IDS, ITEM_IDS)
"""All tables that a canonical folder may hold."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Size = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_COUNT)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Preparation(msgspec.Struct):
    """How a data set was made, in ``dataset.json``; every field may be missing."""

    name: str = ""
    paper: str = ""
    rows: dict[str, int] = {}
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    notes: list[str] = []


class Origin(msgspec.Struct):
    """The data set from which another one was made, in ``dataset.json``; every field may be missing."""

    name: str = ""
    fingerprint: str = ""
    by: str = ""


class Info(msgspec.Struct):
    """The fields of ``dataset.json`` that are used, with their types; other fields are not changed."""

    num_users: Size
    num_items: Size
    name: Name | None = None
    task: Literal["cf", "sequential", "social", "poi"] = "cf"
    num_train: Count | None = None
    num_valid: Count | None = None
    num_test: Count | None = None
    time_ordered: bool | None = None
    mixed_validation: bool | None = None
    social_edges: Count | None = None
    sha256: dict[str, Digest] = {}
    preparation: Preparation | None = None
    derived_from: Origin | None = None
    split: str = ""
    source: str | list[str] = ""
    licence: str = ""
    note: str = ""


def is_canonical(folder: Path) -> bool:
    """Return whether the folder holds the files of the canonical form."""
    return (folder / INFO).is_file() and (folder / INTERACTIONS).is_file()


def load_canonical(folder: Path | str) -> Dataset:
    """Read a canonical folder and validate it.

    Repeated (user, item) rows of a cf or social set are merged (the first split's row, then the earliest,
    is kept) and counted in ``meta["duplicates_merged"]``.

    Raises:
        DataError: if a file is missing, damaged, differs from its checksum, or breaks a rule; the message
            names file, row and rule.
    """
    folder = Path(folder)
    path = folder / INTERACTIONS
    info, known = read_info(folder)
    verify_checksums(folder, known.sha256)
    num_users, num_items = known.num_users, known.num_items
    stated = count_rows(path)
    check_count(str(folder / INFO), "num_users", num_users, stated)
    check_count(str(folder / INFO), "num_items", num_items, stated)
    rows = read_interactions(path, num_users, num_items)
    _check_counts(path, rows, known)
    name, task = known.name or folder.name, known.task
    if task in ("cf", "social"):
        rows, merged = merge_duplicates(rows)
        info = info | ({"duplicates_merged": merged} if merged else {})
    if rows.timestamps is not None:
        # lexsort is stable: rows with equal times keep the file's order.
        rows = rows.take(np.lexsort((rows.timestamps, rows.users)))
    train, valid, test = _parts(rows, num_users, num_items)
    entry = CATALOG.get(name)
    by_name = entry is not None and entry.time_ordered
    ordered = rows.timestamps is not None or (by_name if known.time_ordered is None else known.time_ordered)
    social = read_social(folder / SOCIAL, num_users)
    ids = read_source_ids(folder / USER_IDS, num_users), read_source_ids(folder / ITEM_IDS, num_items)
    features = read_item_features(folder / ITEMS, num_items)
    mixed = known.mixed_validation
    if mixed is None:  # as the published split of this name, unless the folder was prepared here
        mixed = entry is not None and entry.mixed_validation and known.time_ordered is None
    data = Dataset(
        name, task, train, valid, test, ordered, social, info, *ids, features, mixed_validation=mixed
    )
    if (folder / DISLIKES).is_file():
        data = replace(data, dislikes=_read_dislikes(folder / DISLIKES, data, rows))
    check_dataset(data, str(path))
    return data


def _parts(rows: RawRows, num_users: int, num_items: int) -> Parts:
    """Return the rows of the three splits."""
    shape = num_users, num_items
    train, valid, test = (
        Interactions.from_pairs(p.users, p.items, *shape, p.timestamps, p.ratings)
        for p in (rows.part(s) for s in range(len(SPLITS)))
    )
    return train, valid, test


def _read_dislikes(path: Path, data: Dataset, likes: RawRows) -> Parts:
    """Read ``dislikes.parquet``, of which no pair may be an interaction.

    Raises:
        DataError: if a value breaks a rule, a pair is an interaction, too, or the task keeps repeats.
    """
    if data.task not in ("cf", "social"):
        raise DataError(f"{path}: dislikes are for sets of items (tasks cf and social), not {data.task}")
    low = read_interactions(path, data.num_users, data.num_items)
    pair = low.users.astype(np.int64) * data.num_items + low.items
    liked = np.isin(pair, likes.users.astype(np.int64) * data.num_items + likes.items)
    if liked.any():
        row = int(np.flatnonzero(liked)[0])
        user, item = int(low.users[row]), int(low.items[row])
        raise DataError(
            f"{path} row {row}: {data.users_by_id.named(user)} and {data.items_by_id.named(item)} are in "
            f"{INTERACTIONS}, too; a pair is an interaction or a dislike"
        )
    return _parts(merge_duplicates(low)[0], data.num_users, data.num_items)


def check_dataset(data: Dataset, where: str) -> None:
    """Raise an error for a data set on which no model can be trained and tested.

    Args:
        data: the data set.
        where: its file, for the message.

    Raises:
        DataError: for an empty split, or for a user of a cf or social set without train items.
    """
    for split in SPLITS:
        if not len(data.split(split)):
            raise DataError(f"{where}: the {split} split is empty; every split needs rows")
    lost = (data.train.counts == 0) & (data.valid.counts + data.test.counts > 0)  # (U,)
    if data.task in ("cf", "social") and lost.any():
        user, others = int(np.flatnonzero(lost)[0]), int(lost.sum()) - 1
        raise DataError(
            f"{where}: {data.users_by_id.named(user)} (and {others} others) has no train items to predict "
            "from"
        )


def verify_checksums(folder: Path, sums: dict[str, str]) -> None:
    """Compare the files with the checksums in ``dataset.json``; DataError names the file that differs."""
    for file, expected in sums.items():
        if file not in TABLES:
            raise DataError(f"{folder / INFO}: sha256 of {shown(file)}, which is not a table of a data set")
        path = folder / file
        if not path.is_file():
            raise DataError(f"{path}: {INFO} lists this file, but it is not there")
        with path.open("rb") as content:
            digest = hashlib.sha256()
            while block := content.read(2**20):
                digest.update(block)
        if (found := digest.hexdigest()) != expected:
            raise DataError(
                f"{path}: sha256 is {found[:12]}..., {INFO} says {expected[:12]}...; truncated or changed?"
            )


def read_info(folder: Path) -> tuple[dict[str, Any], Info]:
    """Read ``dataset.json``: all its fields, and the validated fields that are used.

    Raises:
        DataError: if the file is missing, or a field has another type; the message names the field.
    """
    path = folder / INFO
    known = read_record(path, Info, limit=LARGEST_INFO)
    return read_record(path, dict[str, Any], limit=LARGEST_INFO), known


def _check_counts(path: Path, rows: RawRows, info: Info) -> None:
    """Compare the number of rows of each split with ``dataset.json``."""
    for number, split in enumerate(SPLITS):
        stated, found = getattr(info, f"num_{split}"), len(rows.part(number))
        if stated is not None and stated != found:
            raise DataError(f"{path}: {found} {split} rows, {INFO} says {stated}; truncated?")
