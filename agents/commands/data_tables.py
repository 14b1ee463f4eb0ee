"""The tables of ``refit data``: known sets, recipes, and the facts of one set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from agents.console import PlainConsole, console, say
from refit_env.data import Dataset, load_dataset
from refit_env.data.canonical import read_info
from refit_env.data.catalog import CATALOG, Source
from refit_env.data.coverage import PUBLISHED, differs, measured, share
from refit_env.data.home import find_raw
from refit_env.data.identity import SHORT
from refit_env.data.interactions import SPLITS
from refit_env.data.recipes import RECIPES, recipes_for
from refit_env.errors import DataError

LONGEST_FACT = 1000
"""Characters that are printed of a text in ``dataset.json``."""
COLUMNS = (
    "name",
    "task",
    "users",
    "items",
    "interactions",
    "density",
    *SPLITS,
    "social edges",
    "timed",
    "here",
)
"""Columns of the table of ``refit data list``."""


def steps_table(dataset: Dataset) -> Table:
    """Return the table of ``refit data prepare``: what each step left, and how much it removed."""
    done = dataset.meta["preparation"]
    table = Table("step", title=f"{dataset.name}: left after each step, and removed by it")
    parts = {"interactions": done["rows"], "users": done["users"], "items": done["items"]}
    for name in parts:
        table.add_column(name, justify="right")
    last: dict[str, int] = {}
    for step in done["rows"]:
        cells = []
        for name, counts in parts.items():
            if step not in counts:
                cells.append("")
                continue
            change = counts[step] - last.get(name, counts[step])
            cells.append(f"{counts[step]:,}" + (f" ({change:+,})" if change else ""))
            last[name] = counts[step]
        table.add_row(step, *cells)
    return table


def describe(dataset: Dataset) -> dict[str, Any]:
    """The facts of ``refit data info``."""
    counts = dataset.train.counts
    popularity = np.sort(np.bincount(dataset.train.items, minlength=dataset.num_items))[::-1]
    head = popularity[: max(1, popularity.size // 10)].sum() / popularity.sum()
    total = sum(_counts(dataset))
    facts: dict[str, Any] = {
        "task": dataset.task,
        "users x items": f"{dataset.num_users:,} x {dataset.num_items:,}",
        "train / valid / test": " / ".join(f"{len(dataset.split(s)):,}" for s in SPLITS),
        "density": _density(dataset.num_users, dataset.num_items, total),
        "repeats": _repeats(dataset, total),
        "train items a user": f"median {np.median(counts):.0f}, least {counts.min()}, most {counts.max()}",
        "most popular tenth of the items": f"{head:.0%} of the train interactions",
        "rows in order of time": "yes" if dataset.time_ordered else "no",
        "social edges": "none" if dataset.social is None else f"{len(dataset.social):,}",
    }
    if dataset.mixed_validation:
        facts["validation items"] = "a random part of these rows, not the latest"
    if dataset.dislikes is not None:
        facts["dislikes, train / valid / test"] = " / ".join(f"{len(part):,}" for part in dataset.dislikes)
    kept = [ids.kind + "s" for ids in (dataset.users_by_id, dataset.items_by_id) if ids.known]
    facts["ids of the source"] = ", ".join(kept) or "not kept: the numbers are the ids"
    facts["fingerprint"] = dataset.fingerprint
    if dataset.name in PUBLISHED:
        facts["as published"] = PUBLISHED[dataset.name].in_words()
    if dataset.name in measured():
        what = measured()[dataset.name].in_words() if differs(dataset) else "this data set"
        facts["published tables measured on"] = f"{what}: {share(dataset.name)}"
    if dataset.item_features is not None:
        facts["known of the items"] = ", ".join(dataset.item_features)
    prepared = dataset.meta.get("preparation") or {}
    if "name" in prepared:
        facts["recipe"] = f"{prepared['name']}: {prepared.get('paper', '')}"
    origin = dataset.meta.get("derived_from") or {}
    if origin:
        name, digits, by = (str(origin.get(key, "")) for key in ("name", "fingerprint", "by"))
        facts["made from"] = f"{name} (fingerprint {digits[:SHORT]}): {by}"[:LONGEST_FACT]
    known = ("split", "source", "licence", "note", "duplicates_merged")
    others = {key.replace("_", " "): dataset.meta[key] for key in known if key in dataset.meta}
    for name, value in others.items():
        text = "\n".join(value) if isinstance(value, list) else str(value)
        facts[name] = text if len(text) <= LONGEST_FACT else f"{text[:LONGEST_FACT]} ..."
    return facts


def damage(folder: Path) -> str | None:
    """What is wrong with the ``dataset.json`` of a folder; None if nothing is."""
    try:
        read_info(folder)
    except DataError as error:
        return str(error)
    return None


def describe_absent(known: Source) -> dict[str, Any]:
    """The facts of ``refit data info`` of a set that is not here."""
    facts: dict[str, Any] = {"task": known.task, "here": "no"}
    counts = PUBLISHED[known.name].counts
    facts["as published"] = PUBLISHED[known.name].in_words()
    facts["density"] = _density(counts.users, counts.items, counts.interactions)
    facts["published tables measured on"] = f"{measured()[known.name].in_words()}: {share(known.name)}"
    facts |= {"page": known.page, "licence": known.licence}
    for recipe in recipes_for(known.name):
        note = f" ({recipe.note})" if recipe.note else ""
        facts[f"recipe {recipe.name}"] = f"{recipe.paper}, from {recipe.files_in_words(known.name)}{note}"
    return facts


def facts_of(name: str, folder: Path | None) -> dict[str, Any]:
    """One data set for ``refit data list``, JSON-plain; of the files, only ``dataset.json`` is read.

    Args:
        name: a known name, or that of one's own set.
        folder: the canonical folder, or None where it is not here, or not needed.

    Returns:
        ``here`` is ``yes``, ``no``, ``raw`` (official files, not prepared) or ``damaged``; unknown facts are
        None. Of a set that is not here, the counts are the published ones.
    """
    known = CATALOG.get(name)
    facts: dict[str, Any] = dict.fromkeys((*COLUMNS, "folder", "page", "damage")) | {"name": name}
    if known is not None:
        facts |= {"task": known.task, "timed": known.time_ordered, "page": known.page}
    if known is None and folder is None:
        data = load_dataset(name)
        splits = [len(data.split(s)) for s in SPLITS]
        return (
            facts
            | {"task": data.task, "timed": True, "here": "yes"}
            | _sizes(data.num_users, data.num_items, splits)
        )
    if folder is None and known is not None:
        whole = PUBLISHED[name].counts
        sizes = _sizes(whole.users, whole.items, [whole.interactions])
        return facts | sizes | {"here": "raw" if find_raw(known) is not None else "no"}
    assert folder is not None
    facts["folder"] = str(folder)
    if (wrong := damage(folder)) is not None:
        return facts | {"here": "damaged", "damage": wrong}
    info = read_info(folder)[1]
    splits = [info.num_train or 0, info.num_valid or 0, info.num_test or 0]
    timed = facts["timed"] if info.time_ordered is None else info.time_ordered
    facts |= {"task": facts["task"] or info.task, "timed": bool(timed), "social edges": info.social_edges}
    return facts | _sizes(info.num_users, info.num_items, splits) | {"here": "yes"}


def list_row(facts: Mapping[str, Any]) -> list[str]:
    """``facts_of`` as a line of the table."""
    return [_cell(name, facts[name]) for name in COLUMNS]


def _cell(name: str, value: Any) -> str:
    """A fact as the table prints it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3%}" if name == "density" else f"{value:,}" if isinstance(value, int) else str(value)


def _sizes(users: int, items: int, splits: list[int]) -> dict[str, Any]:
    """Users, items, interactions, density and, where all three are known, those of each split."""
    total = sum(splits)
    sizes = {"users": users, "items": items, "interactions": total, "density": total / (users * items)}
    return sizes | (dict(zip(SPLITS, splits, strict=True)) if len(splits) == len(SPLITS) else {})


def _counts(dataset: Dataset) -> list[int]:
    """Interactions of each split."""
    return [len(dataset.split(s)) for s in SPLITS]


def _repeats(dataset: Dataset, total: int) -> str:
    """The share of the interactions with an item that the user had before."""
    parts = [dataset.split(s) for s in SPLITS]
    pairs = np.concatenate([part.users.astype(np.int64) * dataset.num_items + part.items for part in parts])
    again = total - np.unique(pairs).size
    return f"{again / total:.0%} of the interactions: an item that the user had before" if again else "none"


def _density(users: int, items: int, rows: int) -> str:
    """Interactions per user and item."""
    return f"{rows / (users * items):.3%}"


def recipe_rows() -> list[dict[str, Any]]:
    """The recipes of ``refit data prepare``, JSON-plain: a row for each list of files."""
    rows = []
    for recipe in RECIPES.values():
        wanted: dict[tuple[str, ...], list[str]] = {}
        for dataset, files in recipe.files.items():
            wanted.setdefault(files, []).append(dataset)
        for files, datasets in wanted.items():
            names = [file.split("|")[0] for file in files]
            row = {"recipe": recipe.name, "data sets": datasets, "files": names}
            rows.append(row | {"paper": recipe.paper, "note": recipe.note})
    return rows


def print_recipes() -> None:
    """Print the table of ``refit data list --recipes``, and the notes below it."""
    table = Table(title="Recipes", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    rows = recipe_rows()
    for name in ("recipe", "data sets", "files", "paper"):
        table.add_column(name)
    for row in rows:
        table.add_row(row["recipe"], ", ".join(row["data sets"]), ", ".join(row["files"]), row["paper"])
    wide_console(table).print(table)
    for recipe, note in {row["recipe"]: row["note"] for row in rows}.items():
        if note:
            say(f"{recipe}: {note}")


def wide_console(table: Table) -> PlainConsole:
    """A console in which no column of the table is cut, though its lines may be folded by the terminal."""
    needed = console(width=10_000).measure(table).maximum
    return console(width=max(console().width, needed))
