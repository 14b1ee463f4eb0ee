"""What of a data set decides how to recommend on it: its size, its form, its times and its split."""

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
"""Whether validation items are later than train items, or any of a user's."""
LATER = 0.95
"""Share of users whose validation items are later than their train items, from which a split is by time."""
_BY_TIME = ("time", "quantile", "sessions", "leave-one-out")
"""Splits of ``refit data prepare`` that put later items into validation and test."""


@dataclass(frozen=True)
class DataFacts:
    """What ``inspect_data`` found."""

    name: str
    """Of the data set."""
    task: str
    """``cf``, ``sequential``, ``social`` or ``poi``."""
    form: Form
    """Of what the model is shown."""
    users: int
    """U."""
    items: int
    """I."""
    train: int
    """Train interactions."""
    per_user: float
    """Median number of train items of a user."""
    ordered: bool
    """Whether each user's rows stand in order of time."""
    timed: bool
    """Whether times are known."""
    split: Split
    """How validation was split off."""
    source: str
    """How the split is known."""

    def lines(self) -> list[str]:
        """The facts in words, a line each."""
        times = (
            "times are known" if self.timed else "rows stand in order of time" if self.ordered else "no times"
        )
        form = "rows, each a history and its next item" if self.form == "rows" else "users with sets of items"
        how = "by time" if self.split == "time" else "at random"
        return [
            f"{self.name}: {self.users:,} users, {self.items:,} items, {self.train:,} train interactions, "
            f"{self.per_user:g} a user (median)",
            f"{form}; {times}; split {how} ({self.source})",
        ]


def inspect_data(dataset: Dataset) -> DataFacts:
    """Find what decides the choices.

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
    )


def split_of(dataset: Dataset) -> tuple[Split, str]:
    """Whether a data set was split by time or at random, and how that is known.

    Times decide where they are known, then what ``refit data prepare`` noted, then the table of environments.
    Without any of them, rows that stand in order are taken for split by time.
    """
    share = later_share(dataset)
    if share is not None:
        found: Split = "time" if share >= LATER else "random"
        return found, f"validation is later than train for {share:.0%} of the users"
    noted = _noted(dataset.meta)
    if noted is not None:
        return noted, "as prepared"
    known = next((row for row in TABLE if row.dataset == dataset.name and row.task == "cf"), None)
    if known is not None:
        return ("time" if known.relevance == "recent" else "random"), f"as {known.env_id} states"
    if dataset.time_ordered:
        return "time", "assumed: rows stand in order and the split is not stated"
    return "random", "assumed: there are no times"


def later_share(dataset: Dataset) -> float | None:
    """Share of users whose first validation item is not before their last train item; None without times.

    Users with equal times throughout say nothing and do not count.
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
    """The split that preparation noted; None where it noted none, or a published one."""
    preparation = meta.get("preparation")
    recipe = preparation.get("recipe") if isinstance(preparation, Mapping) else None
    name = recipe.get("split") if isinstance(recipe, Mapping) else None
    if name in _BY_TIME:
        return "time"
    return "random" if name == "random" else None
