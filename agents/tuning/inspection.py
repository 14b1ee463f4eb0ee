"""Facts of a data set that determine the choices: its size, form, times and split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from refit_env.data.dataset import Dataset, RowDataset
from refit_env.registration import TABLE

Form = Literal["sets", "rows"]
"""Users with sets of items; rows, each a history and the item that came next."""
Split = Literal["time", "random"]
"""How validation items were split off: the later items, or random ones."""
LATER = 0.95
"""A split is by time if at least this share of users has validation items later than their train items."""
_BY_TIME = ("time", "quantile", "sessions", "leave-one-out")
"""Splits of ``refit data prepare`` that put later items into validation and test."""


@dataclass(frozen=True)
class DataFacts:
    """The result of ``inspect_data``."""

    name: str
    """Name of the data set."""
    task: str
    """``cf``, ``sequential``, ``social`` or ``poi``."""
    form: Form
    """Form of the model's input."""
    users: int
    """U."""
    items: int
    """I."""
    train: int
    """Train interactions."""
    per_user: float
    """Median number of train items of a user."""
    ordered: bool
    """Whether each user's rows are sorted by time."""
    timed: bool
    """Whether times are known."""
    split: Split
    """Split of the validation items."""
    source: str
    """How the split was determined."""
    social: bool = False
    """Whether there are social edges."""

    def lines(self) -> list[str]:
        """Format the facts, one line each."""
        times = "times are known" if self.timed else "rows are sorted by time" if self.ordered else "no times"
        form = "rows, each a history and its next item" if self.form == "rows" else "users with sets of items"
        how = "by time" if self.split == "time" else "at random"
        return [
            f"{self.name}: {self.users:,} users, {self.items:,} items, {self.train:,} train interactions, "
            f"{self.per_user:g} a user (median)",
            f"{form}; {times}; split {how} ({self.source})",
        ]


def inspect_data(dataset: Dataset) -> DataFacts:
    """Return the facts of a data set that determine the choices.

    Example:
        >>> from refit_env.data import load_dataset
        >>> facts = inspect_data(load_dataset("synthetic"))
        >>> facts.form, facts.split, facts.items
        ('sets', 'time', 400)
    """
    counts = dataset.train.counts
    split, source = split_of(dataset)
    return DataFacts(
        name=dataset.name,
        task=dataset.task,
        form="rows" if isinstance(dataset.episodes, RowDataset) else "sets",
        users=dataset.num_users,
        items=dataset.num_items,
        train=len(dataset.train),
        per_user=float(np.median(counts[counts > 0])) if counts.any() else 0.0,
        ordered=dataset.time_ordered,
        timed=dataset.train.timestamps is not None,
        split=split,
        source=source,
        social=dataset.has_friends,
    )


def split_of(dataset: Dataset) -> tuple[Split, str]:
    """Return whether a data set was split by time or at random, and how this was determined.

    The sources are times if known, then ``Dataset.mixed_validation``, then the record of ``refit data
    prepare``, then the table of environments. Without these, rows that are sorted by time are assumed to be
    split by time.
    """
    share = later_share(dataset)
    if share is not None:
        found: Split = "time" if share >= LATER else "random"
        return found, f"validation is later than train for {share:.0%} of the users"
    if dataset.mixed_validation:
        return "random", "of rows sorted by time; refit data resplit makes the latest ones validation items"
    noted = _noted(dataset.meta)
    if noted is not None:
        return noted, "as prepared"
    known = next((row for row in TABLE if row.dataset == dataset.name and row.task == "cf"), None)
    if known is not None:
        return ("time" if known.relevance == "recent" else "random"), f"as {known.env_id} states"
    if dataset.time_ordered:
        return "time", "assumed: rows are sorted by time and the split is not stated"
    return "random", "assumed: there are no times"


def later_share(dataset: Dataset) -> float | None:
    """Return the share of users whose first validation item is not before their last train item.

    None without times. Users whose times are all equal do not count.
    """
    train, valid = dataset.train, dataset.valid
    if train.timestamps is None or valid.timestamps is None:
        return None
    last = np.full(dataset.num_users, -np.inf)
    first = np.full(dataset.num_users, np.inf)
    np.maximum.at(last, train.users, train.timestamps)
    np.minimum.at(first, valid.users, valid.timestamps)
    earliest = np.full(dataset.num_users, np.inf)
    np.minimum.at(earliest, train.users, train.timestamps)
    counts = (train.counts > 0) & (valid.counts > 0) & ((earliest < last) | (first != last))  # (U,)
    return float((first >= last)[counts].mean()) if counts.any() else None


def _noted(meta: Mapping[str, Any]) -> Split | None:
    """Return the split that preparation recorded; None if it recorded none, or a published one."""
    preparation = meta.get("preparation")
    recipe = preparation.get("recipe") if isinstance(preparation, Mapping) else None
    name = recipe.get("split") if isinstance(recipe, Mapping) else None
    if name in _BY_TIME:
        return "time"
    return "random" if name == "random" else None
