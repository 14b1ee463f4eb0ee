"""Dislikes: ratings below a threshold, kept beside the interactions and split as those are.

Letters: U users, I items, N rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from refit_env.data.filters import RawRows, at_least, merge_duplicates
from refit_env.data.interactions import SPLITS, Interactions
from refit_env.data.messages import spelled
from refit_env.data.recipe import Recipe
from refit_env.data.splits import Parts, random_per_user
from refit_env.errors import DataError


def rated_below(rows: RawRows, threshold: float) -> RawRows:
    """Keep the rows with ``rating < threshold``.

    Raises:
        DataError: if the rows have no ratings.
    """
    at_least(rows, threshold, "dislike_below")  # refuses rows without ratings
    assert rows.ratings is not None
    return rows.take(rows.ratings < threshold)


def number_dislikes(
    low: RawRows, likes: RawRows, user_ids: npt.NDArray[Any] | None, item_ids: npt.NDArray[Any] | None
) -> RawRows:
    """Number dislikes as the interactions are numbered, each pair once.

    Dislikes of users and of items that preparation left out are dropped, and so are pairs that are an
    interaction, too (the user rated the item more than once).

    Args:
        low: dislikes with the source's ids.
        likes: the interactions, numbered from 0.
        user_ids: (U,) the source's id of each user; None where the numbers are the source's.
        item_ids: (I,) the same for items.
    """
    users = low.users if user_ids is None else pd.Index(user_ids).get_indexer(low.users)  # -1 where unknown
    items = low.items if item_ids is None else pd.Index(item_ids).get_indexer(low.items)
    known = np.isin(users, likes.users) & np.isin(items, likes.items)
    pairs = pd.MultiIndex.from_arrays([users, items])
    known &= ~pairs.isin(pd.MultiIndex.from_arrays([likes.users, likes.items]))
    numbered = RawRows(
        np.asarray(users, np.int64), np.asarray(items, np.int64), low.timestamps, low.ratings, low.split
    )
    rows, _ = merge_duplicates(numbered.take(known))
    return rows


def split_dislikes(where: Path, rows: RawRows, parts: Parts, recipe: Recipe) -> Parts:
    """Split dislikes into train, validation and test.

    With a random split they are split at random, too, with published files as those are; otherwise by time:
    a dislike from the user's first test interaction on is test, before it from the first validation
    interaction on validation, and train before that.

    Args:
        where: file of the source, for the message.
        rows: dislikes, numbered from 0.
        parts: the interactions.
        recipe: states the split.

    Raises:
        DataError: if the split is by time and the rows have no times.
    """
    train = parts[0]

    def interactions(chosen: npt.NDArray[Any]) -> Interactions:
        part = rows.take(chosen)
        shape = train.num_users, train.num_items
        return Interactions.from_pairs(part.users, part.items, *shape, part.timestamps, part.ratings)

    everything = interactions(np.ones(len(rows), bool))
    if recipe.split == "random":
        return random_per_user(everything, recipe.valid_share, recipe.test_share, recipe.seed)
    if recipe.split == "published":
        assert rows.split is not None  # a source without splits was refused before
        known, valid, test = (interactions(rows.split == s) for s in range(len(SPLITS)))
        if not len(valid):
            known, valid, _ = random_per_user(known, recipe.valid_share, 0.0, recipe.seed)
        return known, valid, test
    if everything.timestamps is None:
        below, split_name = f"{recipe.dislike_below:g}", recipe.split
        both = (
            f"{spelled('dislike_below', below, below)} and {spelled('split', repr(split_name), split_name)}"
        )
        raise DataError(
            f"{where}: {both} need timestamps, which place dislikes before or after the test items; a random "
            "split needs none"
        )
    first = [part.first_times()[everything.users] for part in parts[1:]]  # (N,) each
    later = everything.timestamps >= first[1]  # (N,)
    split = np.where(later, 2, np.where(everything.timestamps >= first[0], 1, 0))
    return everything.select(split == 0), everything.select(split == 1), everything.select(split == 2)
