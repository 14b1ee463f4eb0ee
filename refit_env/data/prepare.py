"""From official files to the canonical form.

Letters: N interactions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from refit_env.data.canonical import save_dataset
from refit_env.data.catalog import CATALOG, Source
from refit_env.data.dataset import Dataset, Interactions
from refit_env.data.filters import Funnel, at_least, dense_ids, k_core, merge_duplicates
from refit_env.data.readers import read_raw
from refit_env.data.splits import Parts, by_time, leave_one_out, random_per_user
from refit_env.errors import DataError, unknown_name

SPLITTERS = ("published", "random", "time", "leave-one-out")
"""Names for ``Recipe.split``."""


@dataclass(frozen=True)
class Recipe:
    """How raw interactions become a data set."""

    format: str = "csv"
    """The reader, see ``refit_env.data.readers``."""
    columns: dict[str, str] | None = None
    """For ``csv``: our column names to the file's."""
    min_rating: float | None = None
    """Keep interactions rated at least this."""
    k_core: int = 0
    """Drop users and items with fewer interactions, repeatedly; 0 keeps all."""
    split: str = "random"
    """``published``, ``random`` (per user), ``time`` (per user) or ``leave-one-out``."""
    valid_share: float = 0.1
    """Share of each row for validation (of the train rows, where a published split has none)."""
    test_share: float = 0.2
    """Share of each row for test."""
    seed: int = 0
    """Of random splits."""
    task: str = "cf"
    """``cf``, ``sequential``, ``social`` or ``poi``."""


def prepare(
    name: str, source: Path | str, recipe: Recipe, out: Path | str | None = None, *, meta: dict[str, Any] | None = None
) -> Dataset:
    """Read, filter, split and (with ``out``) write a data set.

    Args:
        name: of the data set.
        source: official file, or the folder that holds the format's files.
        recipe: what to do.
        out: canonical folder to write; None only returns the data set.
        meta: more for ``dataset.json``.

    Raises:
        DataError: if the files break a rule, or a user or split is left with nothing.
        ValueError: for unknown names in the recipe.
    """
    if recipe.split not in SPLITTERS:
        raise unknown_name("split", recipe.split, SPLITTERS)
    funnel = Funnel({})
    table = funnel.note("read", read_raw(source, recipe.format, recipe.columns))
    if recipe.min_rating is not None:
        table = funnel.note(f"rating >= {recipe.min_rating:g}", at_least(table, recipe.min_rating))
    if recipe.task in ("cf", "social"):
        table, merged = merge_duplicates(table)
        funnel.note(f"{merged} duplicates merged", table)
    if recipe.k_core > 1:
        table = funnel.note(f"{recipe.k_core}-core", k_core(table, recipe.k_core))
    table = _ordered(table if recipe.split == "published" and recipe.k_core <= 1 and _is_dense(table) else dense_ids(table))
    parts = _split(table, recipe)
    ordered = "timestamp" in table or (name in CATALOG and CATALOG[name].time_ordered)
    info = {"split": _describe(recipe), "funnel": funnel.steps, **(meta or {})}
    dataset = Dataset(name, recipe.task, *parts, time_ordered=ordered, meta=info)
    _check(dataset, source)
    if out is not None:
        save_dataset(dataset, out)
    return dataset


def prepare_known(entry: Source, source: Path, out: Path) -> Path:
    """Prepare a catalogue data set from its official files by its recipe; returns the folder."""
    recipe = Recipe(**({"format": entry.format, "task": entry.task} | dict(entry.recipe)))
    meta = {"source": [entry.page], "licence": entry.licence}
    dataset = prepare(entry.name, source, recipe, meta=meta)
    if entry.counts is not None and (dataset.num_users, dataset.num_items) != entry.counts:
        raise DataError(
            f"{source}: {dataset.num_users} users and {dataset.num_items} items, {entry.name!r} has "
            f"{entry.counts[0]} and {entry.counts[1]}; another version of the data?"
        )
    return save_dataset(dataset, out)


def fetch(entry: Source, home: Path) -> Path:
    """Download a data set's official file; returns its folder under ``<home>/raw``.

    Raises:
        DataError: if the host does not answer or the file is not what its checksum says; the message says
            how to get it by hand.
    """
    import pooch

    folder = home / "raw" / entry.name
    try:
        pooch.retrieve(entry.url, known_hash=entry.sha256, path=folder, fname=entry.files[0], progressbar=False)
    except Exception as error:  # pooch passes on whatever its transport raised
        raise DataError(
            f"data set {entry.name!r}: {entry.url} could not be fetched ({type(error).__name__}: {error}). Get "
            f"{', '.join(entry.files)} from {entry.page} ({entry.licence}) and put it into {folder}"
        ) from error
    return folder


def _split(table: pd.DataFrame, recipe: Recipe) -> Parts:
    """Cut the table into train, valid and test."""
    rows = _interactions(table)
    if recipe.split == "published":
        return _published(table, recipe)
    if recipe.split == "random":
        return random_per_user(rows, recipe.valid_share, recipe.test_share, recipe.seed)
    if "timestamp" not in table:
        raise DataError(f"split {recipe.split!r} needs timestamps, which the source does not have; use split 'random'")
    return by_time(rows, recipe.valid_share, recipe.test_share) if recipe.split == "time" else leave_one_out(rows)


def _published(table: pd.DataFrame, recipe: Recipe) -> Parts:
    """The split of the source; a part of train becomes validation where the source has none."""
    if "split" not in table:
        raise DataError(f"split 'published': format {recipe.format!r} has none; use one of {', '.join(SPLITTERS[1:])}")
    users, items = int(table["user"].max()) + 1, int(table["item"].max()) + 1
    train, valid, test = (_interactions(table[table["split"] == s], users, items) for s in (0, 1, 2))
    if not len(valid):
        train, valid, _ = random_per_user(train, recipe.valid_share, 0.0, recipe.seed)
    return train, valid, test


def _interactions(table: pd.DataFrame, num_users: int | None = None, num_items: int | None = None) -> Interactions:
    """The table's rows by user."""
    return Interactions.from_pairs(
        table["user"].to_numpy(),
        table["item"].to_numpy(),
        int(table["user"].max()) + 1 if num_users is None else num_users,
        int(table["item"].max()) + 1 if num_items is None else num_items,
        table["timestamp"].to_numpy() if "timestamp" in table else None,
        table["rating"].to_numpy() if "rating" in table else None,
    )


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """By time where it is known; the order of the file else."""
    return table.sort_values("timestamp", kind="stable") if "timestamp" in table else table


def _is_dense(table: pd.DataFrame) -> bool:
    """Whether every id from 0 on occurs: a published numbering is then kept."""
    return all(int(table[name].max()) + 1 == table[name].nunique() for name in ("user", "item"))


def _describe(recipe: Recipe) -> str:
    """The split in words."""
    if recipe.split in ("random", "time"):
        train = 1 - recipe.valid_share - recipe.test_share
        return f"{recipe.split} per user, {train:.2g}:{recipe.valid_share:.2g}:{recipe.test_share:.2g}"
    return recipe.split


def _check(dataset: Dataset, source: Path | str) -> None:
    """Something to learn from, to select on and to test on."""
    for split in ("train", "valid", "test"):
        if not len(dataset.split(split)):
            raise DataError(f"{source}: the {split} split is empty; other shares, or fewer filters")
    lost = np.flatnonzero((dataset.train.counts == 0) & (dataset.valid.counts + dataset.test.counts > 0))
    if lost.size and dataset.task == "cf":
        raise DataError(f"{source}: user {lost[0]} has no train items, so nothing can be predicted from ({lost.size} such)")
