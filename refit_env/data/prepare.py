"""Prepares official files into a canonical folder: read, filter, number, split, check, save.

Letters: N rows, U users, I items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from refit_env.data.canonical import check_dataset
from refit_env.data.catalog import CATALOG, Source
from refit_env.data.dataset import Dataset
from refit_env.data.dislikes import number_dislikes, rated_below, split_dislikes
from refit_env.data.filters import (
    RawRows,
    at_least,
    compact_rows,
    daily_sessions,
    in_seconds,
    k_core,
    merge_duplicates,
)
from refit_env.data.interactions import SPLITS, Interactions
from refit_env.data.limits import check_count
from refit_env.data.messages import spelled
from refit_env.data.readers.formats import guess_format, read_rows
from refit_env.data.readers.header_tables import ReadOptions
from refit_env.data.readers.social_pairs import read_social
from refit_env.data.recipe import Recipe
from refit_env.data.recipes import NamedRecipe, choose_recipe
from refit_env.data.saving import check_free, check_name, check_own_name, save_dataset
from refit_env.data.splits import Parts, by_quantile, by_session, by_time, leave_one_out, random_per_user
from refit_env.errors import DataError


def prepare(
    name: str,
    source: Path | str,
    recipe: Recipe | NamedRecipe | None = None,
    out: Path | str | None = None,
    *,
    stored: str | None = None,
    overwrite: bool = False,
    social: Path | str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Dataset:
    """Read official files and prepare a data set from them.

    Args:
        name: name of the data set. One of the catalogue is prepared by its own recipes only.
        source: the file, or the folder with the files.
        recipe: the steps, or a named recipe. None uses, for a name of the catalogue, its first recipe whose
            files are there; for other names it guesses the format and splits at random.
        out: canonical folder to write, by one process at a time; None only returns the data set.
        stored: name of the stored data set; None uses ``name``.
        overwrite: whether to replace a data set in ``out``.
        social: a table of friends, with a header: its first two columns are users of ``source``. The task
            ``cf`` becomes ``social``. Named recipes have none.
        meta: further fields for ``dataset.json``.

    Returns:
        The data set; ``meta["preparation"]`` holds the recipe and the number of rows after every step.

    Raises:
        DataError: if a file or the filtered data break a rule, or the counts differ from the catalogue's; the
            message names file, row and rule. Also for an invalid name or a non-empty ``out``, before anything
            is read.
    """
    source, stored = Path(source), stored or name
    known = None if isinstance(recipe, Recipe) else CATALOG.get(name)
    check_name(name)
    if out is not None:
        if known is None or stored != name:
            check_own_name(stored)
        check_free(out, overwrite)
    chosen = _chosen_recipe(name, source, recipe)
    about: dict[str, Any] = {}
    if isinstance(chosen, Recipe):
        data = _from_files(stored, source, chosen, about, social=None if social is None else Path(social))
    elif social is not None:
        raise DataError(f"recipe {chosen.name} reads its own social edges, if any: leave out {social}")
    else:
        about = {"name": chosen.name, "paper": chosen.paper}
        as_published = known if name in chosen.exact else None
        ordered = chosen.recipe.time_ordered or (as_published is not None and as_published.time_ordered)
        steps = replace(chosen.recipe, time_ordered=ordered)
        mixed = as_published is not None and as_published.mixed_validation
        data = _from_files(stored, chosen.source_in(name, source), steps, about, mixed=mixed)
        if known is not None:
            page = {"source": [chosen.page or known.page], "licence": known.licence}
            data = replace(data, meta={**data.meta, **page})
            if name in chosen.exact:
                _check_counts(known, data, source)
    data = replace(data, meta={**data.meta, **(meta or {})})
    if out is not None:
        save_dataset(data, out, overwrite=overwrite)
    return data


def _chosen_recipe(name: str, source: Path, recipe: Recipe | NamedRecipe | None) -> Recipe | NamedRecipe:
    """Return the recipe, or the default one of the data set; see ``prepare``."""
    if recipe is not None:
        return recipe
    if name not in CATALOG:
        return Recipe()
    found = choose_recipe(name, source)
    if found is None:
        raise DataError(f"{name} has no recipe; name the format of {source}")
    return found


def _from_files(
    name: str,
    source: Path,
    recipe: Recipe,
    about: Mapping[str, Any],
    *,
    mixed: bool = False,
    social: Path | None = None,
) -> Dataset:
    """Read, filter, number, split and check.

    Args:
        name: of the result.
        source: the files.
        recipe: the steps.
        about: stored with the recipe.
        mixed: whether a validation part of the files is a random part of rows that are sorted by time.
        social: a table of friends.
    """
    recipe = replace(recipe, format=recipe.format or guess_format(source))
    if social is not None:
        recipe = _with_friends(recipe, social)
    rows, low, steps, notes = _filtered(source, recipe)
    if social is not None:
        edges, note = read_social(social, rows)
        rows, notes = replace(rows, social=edges), (*notes, note)
    elif recipe.task == "social" and (rows.social is None or not len(rows.social)):
        friends = spelled("social", "PATH", "FILE")
        raise DataError(
            f"{source}: the task social needs pairs of friends, and it has none; {friends} adds them"
        )
    if not about:  # a named recipe is a paper's own choice
        notes = (*rows.notes, *notes, *_unfiltered(rows, recipe), *_unsplit(rows, recipe))
    numbered = _number(source, rows, recipe)
    rows = numbered.rows
    notes = (*notes, *_equal_times(source, rows, recipe))
    parts = _split(source, numbered, recipe)
    _check_parts(source, parts, recipe)
    dislikes = None
    if low is not None:
        kept = number_dislikes(low, rows, numbered.user_ids, numbered.item_ids)
        notes = (*notes, f"{len(kept):,} dislikes of {len(low):,}: those of users and items that are left")
        dislikes = split_dislikes(source, kept, parts, recipe)
    done = {**about, "recipe": asdict(recipe)} | steps.report() | ({"notes": list(notes)} if notes else {})
    data = Dataset(
        name,
        recipe.task,
        *parts,
        time_ordered=recipe.time_ordered or rows.timestamps is not None,
        social=None if rows.social is None else rows.social.astype(np.int32),
        meta={"split": recipe.in_words(), "preparation": done},
        user_ids=numbered.user_ids,
        item_ids=numbered.item_ids,
        item_features=_features(rows),
        dislikes=dislikes,
        mixed_validation=mixed and rows.split is not None and SPLITS.index("valid") in rows.split,
    )
    check_dataset(data, str(source))
    return data


def _with_friends(recipe: Recipe, social: Path) -> Recipe:
    """Return the recipe for data with friends, which are sets of items.

    Raises:
        DataError: for another task, or for sessions, which have no friends.
    """
    if recipe.task not in ("cf", "social") or recipe.session:
        other = spelled("task", repr(recipe.task), recipe.task)
        other = spelled("session", repr(recipe.session), recipe.session) if recipe.session else other
        raise DataError(f"{social}: friends are for sets of items (task social), not for {other}")
    return replace(recipe, task="social")


class Steps:
    """The numbers of rows, users and items that were left after each step of the preparation.

    Attributes:
        rows: step -> interactions.
        users: step -> users with a row; a step of the reader alone has no entry.
        items: step -> items with a row, likewise.
    """

    def __init__(self) -> None:
        """Begin without a step."""
        self.rows: dict[str, int] = {}
        self.users: dict[str, int] = {}
        self.items: dict[str, int] = {}

    def read(self, rows: RawRows) -> None:
        """Note what a reader gave, and what it left out."""
        left = len(rows) + sum(rows.dropped.values())
        self.rows["read"] = left
        for reason, count in rows.dropped.items():
            left -= count
            self.rows[f"without {reason}"] = left
        self.note(next(reversed(self.rows)), rows)

    def note(self, step: str, rows: RawRows) -> None:
        """Note what is left after a step."""
        self.rows[step] = len(rows)
        self.users[step], self.items[step] = len(pd.unique(rows.users)), len(pd.unique(rows.items))

    def report(self) -> dict[str, dict[str, int]]:
        """Return the counts for ``dataset.json``."""
        return {"rows": self.rows, "users": self.users, "items": self.items}


def _filtered(source: Path, recipe: Recipe) -> tuple[RawRows, RawRows | None, Steps, tuple[str, ...]]:
    """Read and filter the rows; also return dislikes, what each step left, and notes on the rows' values."""
    options = ReadOptions(
        columns=recipe.columns,
        ignore=recipe.ignore,
        separator=recipe.separator,
        token_ids=recipe.token_ids,
        drop_blank=recipe.drop_blank,
        ratings=recipe.least_rating is not None,
        splits=recipe.split == "published",
        num_users=recipe.num_users,
        num_items=recipe.num_items,
    )
    rows = read_rows(source, recipe.format or "", options)
    steps = Steps()
    steps.read(rows)
    rows, notes = in_seconds(rows, str(source), recipe.time_unit)
    low = None if recipe.dislike_below is None else rated_below(rows, recipe.dislike_below)
    if recipe.least_rating is not None:
        rows = at_least(rows, recipe.least_rating)
        steps.note(f"rating >= {recipe.least_rating:g}", rows)
    if recipe.session:
        rows = daily_sessions(rows, recipe.utc_offset)
        steps.note("a session a day", rows)
    if recipe.merges:
        rows, merged = merge_duplicates(rows)
        steps.note(f"{merged} duplicates merged", rows)
    user_rows, item_rows = (
        max(recipe.k_core, least) for least in (recipe.min_user_rows, recipe.min_item_rows)
    )
    if max(user_rows, item_rows) > 1:
        rows = k_core(rows, user_rows, item_rows, recipe.core_passes)
        equal = user_rows == item_rows
        steps.note(f"{user_rows}-core" if equal else f"users >= {user_rows}, items >= {item_rows}", rows)
    if not len(rows):
        left = ", ".join(f"{step} {count:,}" for step, count in steps.rows.items())
        raise DataError(f"{source}: no rows are left; rows after each step: {left}")
    return rows, low, steps, notes


def _unfiltered(rows: RawRows, recipe: Recipe) -> tuple[str, ...]:
    """Return a note for the report if the files have ratings and no option uses them."""
    if recipe.least_rating is not None or "rating" in recipe.columns:
        return ()
    if rows.ratings is None and not rows.unread_ratings:
        return ()
    option = spelled("min_rating", "4", "4")
    return (f"ratings are not used: rows with low ratings are interactions, too; {option} keeps those >= 4",)


def _unsplit(rows: RawRows, recipe: Recipe) -> tuple[str, ...]:
    """Return a note for the report if the files are split and the recipe splits anew."""
    if recipe.split == "published" or (rows.split is None and not rows.unread_split):
        return ()
    published = spelled("split", repr("published"), "published")
    return (f"the split of the files is not used: {_split_option(recipe)} splits anew; {published} uses it",)


def _check_counts(entry: Source, data: Dataset, source: Path) -> None:
    """Compare the counts of a prepared data set with those in the catalogue."""
    found = (data.num_users, data.num_items, sum(len(data.split(s)) for s in SPLITS))
    if entry.counts is not None and entry.counts != found:
        counts = (entry.counts, found)
        stated, here = (f"{u:,} users, {i:,} items, {n:,} interactions" for u, i, n in counts)
        raise DataError(
            f"{source}: {entry.name} has {stated}; these files give {here}. Truncated, or another version?"
        )


@dataclass(frozen=True)
class _Numbered:
    """Rows with ids from 0 on, sorted by time; the counts, and the source's ids where they differed."""

    rows: RawRows
    num_users: int
    num_items: int
    user_ids: npt.NDArray[Any] | None = None
    item_ids: npt.NDArray[Any] | None = None


def _number(source: Path, rows: RawRows, recipe: Recipe) -> _Numbered:
    """Number users and items from 0 and sort by time; published files keep their numbers."""
    numbered = _numbered(source, rows, recipe)
    if numbered.rows.timestamps is None:
        return numbered
    # lexsort is stable: rows with equal times keep the file's order.
    order = np.lexsort((numbered.rows.timestamps, numbered.rows.users))
    return replace(numbered, rows=numbered.rows.take(order))


def _numbered(source: Path, rows: RawRows, recipe: Recipe) -> _Numbered:
    """Number users and items from 0, except in published files, where the published numbers are kept."""
    filters = (recipe.k_core, recipe.min_user_rows, recipe.min_item_rows)
    published = recipe.split == "published" and recipe.least_rating is None and max(filters) < 2
    published = published and rows.item_table is None  # the table has only items with rows
    if not published or rows.users.dtype.kind not in "iu" or rows.items.dtype.kind not in "iu":
        try:
            rows, users, items = compact_rows(rows)
        except DataError as error:
            raise DataError(f"{source}: {error}") from None
        return _Numbered(rows, users.size, items.size, users, items)
    stated = rows.shape or (int(rows.users.max()) + 1, int(rows.items.max()) + 1)
    num_users = stated[0] if recipe.num_users is None else recipe.num_users
    num_items = stated[1] if recipe.num_items is None else recipe.num_items
    check_count(str(source), "the number of users", num_users, len(rows))
    check_count(str(source), "the number of items", num_items, len(rows))
    return _Numbered(rows, num_users, num_items)


def _split(source: Path, numbered: _Numbered, recipe: Recipe) -> Parts:
    """Split the rows into train, valid and test."""
    rows = numbered.rows

    def interactions(chosen: npt.NDArray[Any]) -> Interactions:
        part = rows.take(chosen)
        return Interactions.from_pairs(
            part.users, part.items, numbered.num_users, numbered.num_items, part.timestamps, part.ratings
        )

    if recipe.split == "published":
        if rows.split is None:
            raise DataError(
                f"{source}: {_split_option(recipe)}, but the files are not split; use random, time or "
                "leave-one-out"
            )
        train, valid, test = (interactions(rows.split == s) for s in range(len(SPLITS)))
        if len(valid) == 0 and len(train):
            if recipe.time_ordered:
                train, valid, _ = by_time(train, recipe.valid_share, 0.0)
            else:
                train, valid, _ = random_per_user(train, recipe.valid_share, 0.0, recipe.seed)
        return train, valid, test
    everything = interactions(np.arange(len(rows)))
    if recipe.split == "random" and recipe.time_ordered and rows.timestamps is None:
        raise DataError(
            f"{source}: {_split_option(recipe)} would lose the places of the held-out items: the rows are "
            f"sorted by time ({spelled('time_ordered', 'True')}), without times; use time or leave-one-out"
        )
    ordered = rows.timestamps is not None or (recipe.time_ordered and recipe.split != "quantile")
    if recipe.split != "random" and not ordered:
        places = recipe.split != "quantile"  # of the times themselves
        order = f", or rows sorted by time ({spelled('time_ordered', 'True')})" if places else ""
        raise DataError(f"{source}: {_split_option(recipe)} needs timestamps{order}")
    valid_share, test_share = recipe.valid_share, recipe.test_share
    ways: dict[str, Callable[[], Parts]] = {
        "random": lambda: random_per_user(everything, valid_share, test_share, recipe.seed),
        "time": lambda: by_time(everything, valid_share, test_share),
        "quantile": lambda: by_quantile(everything, 1 - valid_share - test_share, 1 - test_share),
        "sessions": lambda: by_session(everything, valid_share, test_share),
        "leave-one-out": lambda: leave_one_out(everything),
    }
    return ways[recipe.split]()


def _equal_times(source: Path, rows: RawRows, recipe: Recipe) -> tuple[str, ...]:
    """Return a note for the report on users whose times are all equal, which a split by time cannot order.

    Raises:
        DataError: for a split by time if the times of all rows are equal.
    """
    ordered = recipe.time_ordered and recipe.split != "quantile"  # then equal times are in order, too
    if recipe.split in ("published", "random") or rows.timestamps is None or ordered:
        return ()
    of_users = pd.Series(rows.timestamps).groupby(rows.users)
    first, last = of_users.min(), of_users.max()  # (U,)
    whole = recipe.split == "sessions"  # by the sessions' first times alone
    if first.min() == (first if whole else last).max():
        what = f"all {first.size:,} sessions begin at" if whole else f"all {len(rows):,} rows have"
        option = spelled("split", repr("random"), "random")
        raise DataError(
            f"{source}: {_split_option(recipe)} needs different times, but {what} the same one; use {option}"
        )
    several = of_users.size() > 1  # (U,)
    equal = int(((first == last) & several).sum())
    if whole or not equal:
        return ()
    share = f"{equal:,} of {int(several.sum()):,} users with several rows ({equal / several.sum():.1%})"
    so = "all of them are test" if recipe.split == "quantile" else "they are split in the order of the file"
    return (f"the times of {share} are all equal: {so}",)


def _check_parts(source: Path, parts: Parts, recipe: Recipe) -> None:
    """Raise an error for an empty validation or test part, with the share that leaves it empty."""
    for split, part, share in zip(
        SPLITS[1:], parts[1:], (recipe.valid_share, recipe.test_share), strict=True
    ):
        if not len(part) and recipe.split in ("random", "time"):
            option = spelled(f"{split}_share", f"{share:g}", f"{share:g}")
            raise DataError(
                f"{source}: the {split} split is empty: no user has enough rows for {option}, a share of "
                "each user's rows, rounded; use a larger share, or users with more rows"
            )


def _split_option(recipe: Recipe) -> str:
    return spelled("split", repr(recipe.split), recipe.split)


def _features(rows: RawRows) -> dict[str, npt.NDArray[Any]] | None:
    """Return column name -> (I,) values of the items' table, which ``compact_rows`` sorted by item."""
    if rows.item_table is None:
        return None
    return {name: values for name, values in rows.item_table.items() if name != "item"}
