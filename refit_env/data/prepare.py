"""From official files to a canonical folder: read, filter, number, split, check, save.

Letters: N rows, U users, I items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from refit_env.data.canonical import check_dataset, save_dataset
from refit_env.data.catalog import Source
from refit_env.data.dataset import SPLITS, Dataset, Interactions
from refit_env.data.filters import RawRows, at_least, compact_rows, k_core, merge_duplicates
from refit_env.data.named import ReadOptions
from refit_env.data.readers import guess_format, read_rows
from refit_env.data.splits import Parts, by_time, leave_one_out, random_per_user
from refit_env.errors import DataError, unknown_name

SPLIT_NAMES = ("published", "random", "time", "leave-one-out")
"""Values of ``Recipe.split``."""
TASKS = ("cf", "sequential", "social", "poi")
"""Values of ``Recipe.task``."""


@dataclass(frozen=True)
class Recipe:
    """How official files become a data set: read, filter in the order of the fields, then split."""

    format: str | None = None
    """A key of ``refit_env.data.readers.FORMATS``; None guesses from the names of the files."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Role (user, item, rating, timestamp, split) -> column name, for CSV and RecBole files."""
    separator: str = ","
    """Between the fields of a CSV."""
    token_ids: bool = False
    """Whether ids may be any text."""
    task: str = "cf"
    """``cf``, ``social``, ``sequential`` or ``poi``; the last two keep repeats, as events of their own."""
    time_ordered: bool = False
    """Whether the rows of the files stand in order of time; rows with timestamps are sorted."""
    min_rating: float | None = None
    """Keep rows with at least this rating; None keeps all."""
    k_core: int = 0
    """Keep the largest part in which every user and item has this many rows; 0 keeps all."""
    split: str = "random"
    """``published`` (as the files are split), ``random`` or ``time`` per user, ``leave-one-out``."""
    valid_share: float = 0.1
    """Share of a user's rows; of the train rows where published files have no validation part."""
    test_share: float = 0.2
    """Share of a user's rows (``random`` and ``time``)."""
    seed: int = 0
    """Of a random split."""
    num_users: int | None = None
    """U of published files, where ids must stay below it; None takes the largest id + 1."""
    num_items: int | None = None
    """I, likewise."""

    def __post_init__(self) -> None:
        """Refuse what no data set could be made by."""
        for kind, value, known in (("split", self.split, SPLIT_NAMES), ("task", self.task, TASKS)):
            if value not in known:
                raise unknown_name(kind, value, known)


def prepare(
    name: str,
    source: Path | str,
    recipe: Recipe | None = None,
    out: Path | str | None = None,
    *,
    meta: Mapping[str, Any] | None = None,
) -> Dataset:
    """Read official files and make a data set of them.

    Args:
        name: of the data set.
        source: the file, or the folder with the files.
        recipe: how; the default guesses the format and splits at random.
        out: canonical folder to write, by one process at a time; None only returns the data set.
        meta: more for ``dataset.json``.

    Returns:
        The data set; ``meta["preparation"]`` holds the recipe and counts the rows after every step.

    Raises:
        DataError: if a file or what is left of it breaks a rule; the message names file, row and rule.
    """
    source, recipe = Path(source), recipe or Recipe()
    recipe = replace(recipe, format=recipe.format or guess_format(source))
    rows, steps = _filtered(source, recipe)
    numbered = _number(rows, recipe)
    rows = numbered.rows
    if rows.timestamps is not None:
        rows = rows.take(
            np.lexsort((rows.timestamps, rows.users))
        )  # stable: equal times keep the file's order
    parts = _split(source, replace(numbered, rows=rows), recipe)
    about = {"split": _in_words(recipe), "preparation": {"recipe": asdict(recipe), "rows": steps}}
    data = Dataset(
        name,
        recipe.task,
        *parts,
        time_ordered=recipe.time_ordered or rows.timestamps is not None,
        meta={**about, **(meta or {})},
        user_ids=numbered.user_ids,
        item_ids=numbered.item_ids,
    )
    check_dataset(data, str(source))
    if out is not None:
        save_locked(data, Path(out))
    return data


def _filtered(source: Path, recipe: Recipe) -> tuple[RawRows, dict[str, int]]:
    """The rows to split, and how many were left after each step."""
    options = ReadOptions(
        recipe.columns, recipe.separator, recipe.token_ids, recipe.num_users, recipe.num_items
    )
    rows = read_rows(source, recipe.format or "", options)
    steps = {"read": len(rows)}
    if recipe.min_rating is not None:
        rows = at_least(rows, recipe.min_rating)
        steps[f"rating >= {recipe.min_rating:g}"] = len(rows)
    if recipe.task in ("cf", "social"):
        rows, merged = merge_duplicates(rows)
        steps[f"{merged} duplicates merged"] = len(rows)
    if recipe.k_core > 1:
        rows = k_core(rows, recipe.k_core)
        steps[f"{recipe.k_core}-core"] = len(rows)
    if not len(rows):
        raise DataError(f"{source}: no rows are left; rows after each step: {steps}")
    return rows, steps


def known_recipe(entry: Source) -> Recipe:
    """The recipe of a data set of the catalogue."""
    base = {"format": entry.format or None, "task": entry.task, "time_ordered": entry.time_ordered}
    return Recipe(**(base | dict(entry.recipe)))


def prepare_known(entry: Source, source: Path, out: Path) -> Dataset:
    """Prepare a data set of the catalogue from its official files into ``out``.

    Raises:
        DataError: if a rule is broken or the counts are not those of the catalogue.
    """
    data = prepare(
        entry.name, source, known_recipe(entry), meta={"source": [entry.page], "licence": entry.licence}
    )
    check_counts(entry, data, source)
    save_locked(data, out)
    return data


def check_counts(entry: Source, data: Dataset, source: Path) -> None:
    """Compare a prepared data set with what the catalogue says of the complete one."""
    found = (data.num_users, data.num_items, sum(len(data.split(s)) for s in SPLITS))
    if entry.counts is not None and entry.counts != found:
        told, here = (f"{u:,} users, {i:,} items, {n:,} interactions" for u, i, n in (entry.counts, found))
        raise DataError(
            f"{source}: {entry.name} has {told}; these files give {here}. Truncated, or another version?"
        )


def save_locked(data: Dataset, folder: Path) -> Path:
    """Save in canonical form, one process at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder.parent / f".{folder.name}.writing.lock")):
        return save_dataset(data, folder)


@dataclass(frozen=True)
class _Numbered:
    """Rows with ids from 0 on, how many there are of each, and the source's ids where they were others."""

    rows: RawRows
    num_users: int
    num_items: int
    user_ids: npt.NDArray[Any] | None = None
    item_ids: npt.NDArray[Any] | None = None


def _number(rows: RawRows, recipe: Recipe) -> _Numbered:
    """Number users and items from 0, except in published files, whose numbers others use, too."""
    published = recipe.split == "published" and recipe.min_rating is None and recipe.k_core < 2
    if not published or rows.users.dtype.kind not in "iu" or rows.items.dtype.kind not in "iu":
        rows, users, items = compact_rows(rows)
        return _Numbered(rows, users.size, items.size, users, items)
    num_users = int(rows.users.max()) + 1 if recipe.num_users is None else recipe.num_users
    num_items = int(rows.items.max()) + 1 if recipe.num_items is None else recipe.num_items
    return _Numbered(rows, num_users, num_items)


def _split(source: Path, numbered: _Numbered, recipe: Recipe) -> Parts:
    """Train, valid and test."""
    rows = numbered.rows

    def interactions(chosen: npt.NDArray[Any]) -> Interactions:
        part = rows.take(chosen)
        return Interactions.from_pairs(
            part.users, part.items, numbered.num_users, numbered.num_items, part.timestamps, part.ratings
        )

    if recipe.split == "published":
        if rows.split is None:
            raise DataError(
                f"{source}: split=published, but the files are not split; use random, time or leave-one-out"
            )
        train, valid, test = (interactions(rows.split == s) for s in range(len(SPLITS)))
        if len(valid) == 0 and len(train):
            train, valid, _ = random_per_user(train, recipe.valid_share, 0.0, recipe.seed)
        return train, valid, test
    everything = interactions(np.arange(len(rows)))
    if recipe.split == "random":
        return random_per_user(everything, recipe.valid_share, recipe.test_share, recipe.seed)
    if rows.timestamps is None and not recipe.time_ordered:
        raise DataError(
            f"{source}: split={recipe.split} needs timestamps, or rows that stand in order of time"
        )
    if recipe.split == "time":
        return by_time(everything, recipe.valid_share, recipe.test_share)
    return leave_one_out(everything)


def _in_words(recipe: Recipe) -> str:
    """The split, for ``dataset.json``."""
    if recipe.split in ("random", "time"):
        shares = (1 - recipe.valid_share - recipe.test_share, recipe.valid_share, recipe.test_share)
        return f"{recipe.split} per user, {':'.join(f'{10 * share:.3g}' for share in shares)}"
    return recipe.split
