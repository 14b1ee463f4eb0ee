"""Filters on raw interactions: ratings, duplicates, k-core, and dense ids.

Letters: N interactions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from refit_env.errors import DataError


@dataclass
class Funnel:
    """How many interactions each filter left, in order, for ``dataset.json``."""

    steps: dict[str, int]

    def note(self, step: str, table: pd.DataFrame) -> pd.DataFrame:
        """Write down the table's size after a step and pass it on.

        Raises:
            DataError: if nothing is left.
        """
        self.steps[step] = len(table)
        if table.empty:
            raise DataError(f"nothing is left after {step!r}; sizes so far: {self.steps}")
        return table


def at_least(table: pd.DataFrame, min_rating: float) -> pd.DataFrame:
    """Keep rows rated ``min_rating`` or more.

    Raises:
        DataError: if the table has no ratings.
    """
    if "rating" not in table:
        raise DataError(f"min_rating={min_rating}: the source has no ratings")
    return table[table["rating"] >= min_rating]


def merge_duplicates(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Keep each (user, item) once, at its earliest time (the first row where time is unknown), and count the rest."""
    if "timestamp" in table:
        table = table.sort_values("timestamp", kind="stable")
    kept = table.drop_duplicates(["user", "item"], keep="first")
    return kept, len(table) - len(kept)


def k_core(table: pd.DataFrame, k: int) -> pd.DataFrame:
    """Drop users and items with fewer than ``k`` interactions, again and again, until none is left.

    Example:
        >>> rows = pd.DataFrame({"user": [0, 0, 1, 1, 2], "item": [5, 6, 5, 6, 5]})
        >>> k_core(rows, 2)["user"].tolist()
        [0, 0, 1, 1]
    """
    while True:
        users = table.groupby("user")["item"].transform("size")
        items = table.groupby("item")["user"].transform("size")
        keep = (users >= k) & (items >= k)
        if keep.all():
            return table
        table = table[keep]


def dense_ids(table: pd.DataFrame) -> pd.DataFrame:
    """Number users and items 0, 1, 2 ... in the order of their original ids."""
    out = table.copy()
    for name in ("user", "item"):
        _, codes = np.unique(table[name].to_numpy(), return_inverse=True)
        out[name] = codes.astype(np.int32)
    return out
