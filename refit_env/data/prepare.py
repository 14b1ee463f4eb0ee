"""From official files to a canonical folder: read, filter, number, split, check, save.

Letters: N rows, U users, I items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from refit_env.data.canonical import save_dataset
from refit_env.data.catalog import Source
from refit_env.data.dataset import SPLITS, Dataset, Interactions
from refit_env.data.filters import RawRows, at_least, compact_rows, k_core, merge_duplicates
from refit_env.data.readers import ReadOptions, guess_format, read_rows
from refit_env.data.splits import Parts, by_time, leave_one_out, random_per_user
from refit_env.errors import DataError, unknown_name

SplitName = Literal["published", "random", "time", "leave-one-out"]
SPLIT_NAMES: tuple[SplitName, ...] = ("published", "random", "time", "leave-one-out")


@dataclass(frozen=True)
class Recipe:
    """How raw rows become a data set. Filters come first, in the order of the fields, then the split."""

    min_rating: float | None = None
    """Keep rows with at least this rating; None keeps all."""
    k_core: int = 0
    """Keep the largest part in which every user and item has this many rows; 0 keeps all."""
    split: SplitName = "random"
    """``published`` (as the files are split), ``random`` or ``time`` per user, ``leave-one-out``."""
    valid_share: float = 0.1
    """Share of a user's rows; of the train rows where published files have no validation part."""
    test_share: float = 0.2
    """Share of a user's rows (``random`` and ``time``)."""
    seed: int = 0
    """Of a random split."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Role -> column name, for CSV and RecBole files."""
    separator: str = ","
    """Between the fields of a CSV."""
    token_ids: bool = False
    """Whether ids may be any text."""
    num_users: int | None = None
    """U of published files, where ids must stay below it; None takes the largest id + 1."""
    num_items: int | None = None
    """I, likewise."""

    def __post_init__(self) -> None:
        """Refuse what no data set could be made by."""
        if self.split not in SPLIT_NAMES:
            raise unknown_name("split", self.split, SPLIT_NAMES)


def prepare(
    source: Path | str,
    format: str | None = None,
    recipe: Recipe | None = None,
    name: str = "custom",
    task: str = "cf",
    time_ordered: bool = False,
    meta: Mapping[str, Any] | None = None,
) -> Dataset:
    """Read official files and make a data set of them.

    Args:
        source: the file, or the folder with the files.
        format: a key of ``refit_env.data.readers.FORMATS``; None guesses from the names.
        recipe: filters and split.
        name: of the data set.
        task: ``"cf"``, ``"social"``, ``"sequential"`` or ``"poi"``; the last two keep repeats, as events.
        time_ordered: whether the rows of the files stand in order of time; rows with timestamps are sorted.
        meta: goes to ``dataset.json``.

    Returns:
        The data set; ``meta["preparation"]`` counts what was read, merged and filtered.

    Raises:
        DataError: if a file or what is left of it breaks a rule; the message names file, row and rule.
    """
    source, recipe = Path(source), recipe or Recipe()
    format = format or guess_format(source)
    rows = read_rows(source, format, ReadOptions(recipe.columns, recipe.separator, recipe.token_ids))
    counts = {"rows_read": len(rows)}
    if recipe.min_rating is not None:
        rows = at_least(rows, recipe.min_rating)
        counts["rows_below_min_rating"] = counts["rows_read"] - len(rows)
    if task in ("cf", "social"):
        rows, counts["duplicates_merged"] = merge_duplicates(rows)
    if recipe.k_core > 1:
        before = len(rows)
        rows = k_core(rows, recipe.k_core)
        counts["rows_outside_k_core"] = before - len(rows)
    if not len(rows):
        raise DataError(f"{source}: no rows are left after the filters ({counts})")
    rows, num_users, num_items = _number(source, rows, recipe)
    if rows.timestamps is not None:
        rows = rows.take(
            np.lexsort((rows.timestamps, rows.users))
        )  # stable: equal times keep the file's order
    parts = _split(source, rows, recipe, num_users, num_items, time_ordered)
    about = {"preparation": {"format": format, "recipe": asdict(recipe), **counts}}
    ordered = time_ordered or rows.timestamps is not None
    data = Dataset(name, task, *parts, ordered, meta={**(meta or {}), **about})
    check_dataset(data, str(source))
    return data


def check_dataset(data: Dataset, where: str) -> None:
    """Refuse a data set that no model can be trained and tested on.

    Raises:
        DataError: for an empty split, or for a user of a cf set with nothing to predict from.
    """
    for split in SPLITS:
        if not len(data.split(split)):
            raise DataError(f"{where}: the {split} split is empty; every split needs rows")
    lost = (data.train.counts == 0) & (data.valid.counts + data.test.counts > 0)  # (U,)
    if data.task == "cf" and lost.any():
        user = int(np.flatnonzero(lost)[0])
        raise DataError(
            f"{where}: user {user} has no train items, so nothing can be predicted from ({int(lost.sum())} such)"
        )


def prepare_known(entry: Source, source: Path, folder: Path) -> Path:
    """Prepare a data set of the catalogue from its official files into ``folder``.

    Raises:
        DataError: if a rule is broken or the counts are not those of the catalogue.
    """
    meta = {"source": [entry.page], "licence": entry.licence, "split": entry.recipe.get("split", "random")}
    data = prepare(
        source, entry.format, Recipe(**entry.recipe), entry.name, entry.task, entry.time_ordered, meta
    )
    check_counts(entry, data, source)
    return save_locked(data, folder)


def check_counts(entry: Source, data: Dataset, source: Path) -> None:
    """Compare a prepared data set with what the catalogue says of it."""
    found = (data.num_users, data.num_items, len(data.train), len(data.valid), len(data.test))
    stated = entry.counts
    if stated is not None and stated != found[: len(stated)]:
        raise DataError(
            f"{source}: {entry.name} should have {stated} (users, items, train, valid, test), found {found}; "
            "is a file truncated or of another version?"
        )


def save_locked(data: Dataset, folder: Path) -> Path:
    """Save in canonical form, one process at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder.parent / f".{folder.name}.writing.lock")):
        return save_dataset(data, folder)


def _number(source: Path, rows: RawRows, recipe: Recipe) -> tuple[RawRows, int, int]:
    """Number users and items from 0, except in published files, whose numbers others use, too."""
    published = recipe.split == "published" and recipe.min_rating is None and recipe.k_core < 2
    if not published or rows.users.dtype.kind not in "iu" or rows.items.dtype.kind not in "iu":
        rows, user_ids, item_ids = compact_rows(rows)
        return rows, user_ids.size, item_ids.size
    sizes = []
    for who, ids, stated in (("user", rows.users, recipe.num_users), ("item", rows.items, recipe.num_items)):
        if stated is not None and int(ids.max()) >= stated:
            row = int(np.flatnonzero(ids >= stated)[0])
            raise DataError(f"{source} row {row}: {who} {ids[row]} is outside 0..{stated - 1} (num_{who}s)")
        sizes.append(int(ids.max()) + 1 if stated is None else stated)
    return rows, sizes[0], sizes[1]


def _split(
    source: Path, rows: RawRows, recipe: Recipe, num_users: int, num_items: int, time_ordered: bool
) -> Parts:
    """Train, valid and test."""

    def interactions(chosen: npt.NDArray[Any]) -> Interactions:
        part = rows.take(chosen)
        return Interactions.from_pairs(
            part.users, part.items, num_users, num_items, part.timestamps, part.ratings
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
    if rows.timestamps is None and not time_ordered:
        raise DataError(
            f"{source}: split={recipe.split} needs timestamps, or rows that stand in order of time"
        )
    if recipe.split == "time":
        return by_time(everything, recipe.valid_share, recipe.test_share)
    return leave_one_out(everything)
