"""The work of ``refit data``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from agents.commands.data import DataInfo, DataList, DataPrepare, DataResplit, DataSynthesize
from agents.commands.data_tables import (
    COLUMNS,
    describe,
    describe_absent,
    facts_of,
    list_row,
    print_recipes,
    recipe_rows,
    steps_table,
    wide_console,
)
from agents.console import console, print_json, say
from refit_env.data import Dataset, data_homes, list_datasets, load_dataset, save_dataset, synthesize
from refit_env.data.catalog import CATALOG
from refit_env.data.home import find_dataset, find_raw, named_folder, writable_home
from refit_env.data.interactions import SPLITS
from refit_env.data.messages import as_options
from refit_env.data.prepare import prepare
from refit_env.data.recipe import Recipe
from refit_env.data.recipes import NamedRecipe, choose_recipe
from refit_env.data.saving import check_free, check_name
from refit_env.data.splits import latest_as_validation


def list_sets(command: DataList) -> int:
    """Print the table; of the files only each set's ``dataset.json`` is read. Returns the exit code."""
    if command.recipes:
        if command.json:
            print_json(recipe_rows())
        else:
            print_recipes()
        return 0
    found = [facts_of(name, folder) for name, folder in list_datasets().items()]
    homes = [str(home) for home in data_homes()]
    if command.json:
        print_json({"data_homes": homes, "datasets": found})
        return 0
    table = Table(title="Data sets", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("name", "task", "timed", "here") else "right")
    for facts in found:
        table.add_row(*list_row(facts))
    wide_console(table).print(table)
    for facts in found:
        note = facts["damage"] or (facts["page"] if facts["folder"] is None else None)
        if note is not None:
            say(f"{facts['name']}: {note}")
    say(f"Data homes: {', '.join(homes)} (REFIT_DATA_HOME changes the first)")
    return 0


def info(command: DataInfo) -> int:
    """Print the facts of a data set; of a known one that is not here, those of the catalogue.

    Returns:
        The exit code.
    """
    known = CATALOG.get(command.name)
    here = known is None or find_dataset(command.name) is not None or find_raw(known) is not None
    dataset = load_dataset(command.name) if here else None
    facts = describe_absent(known) if dataset is None and known is not None else {}
    facts = facts if dataset is None else describe(dataset)
    if command.json:
        counts = {} if dataset is None else counts_of(dataset)
        print_json({"name": command.name, **counts, "facts": {key: str(v) for key, v in facts.items()}})
        return 0
    table = Table(title=command.name, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in facts.items():
        table.add_row(key, str(value))
    console().print(table)
    return 0


def prepare_set(command: DataPrepare) -> int:
    """Prepare, write, and print the counts; returns the exit code."""
    with as_options():
        folder, dataset = _prepared(command)
    if command.json:
        print_json({"folder": str(folder), **counts_of(dataset), **_preparation(dataset)})
        return 0
    console().print(steps_table(dataset))
    for note in dataset.meta["preparation"].get("notes", ()):
        say(note)
    say(f"{folder}: {_sizes(dataset)}")
    if dataset.name not in CATALOG:
        say(f"Use it by --data {dataset.name if command.out is None else command.out}")
    return 0


def _prepared(command: DataPrepare) -> tuple[Path, Dataset]:
    """The folder and the data set, prepared by a named recipe or as the options say."""
    stored = command.name if command.as_name is None else command.as_name
    check_name(command.name)
    check_name(stored)
    if command.recipe is not None and command.format is not None:
        raise ValueError(f"--recipe {command.recipe} brings its format; leave out --format {command.format}")
    named = (
        None if command.format is not None else choose_recipe(command.name, command.source, command.recipe)
    )
    if stored in CATALOG and (named is None or stored != command.name):
        raise ValueError(
            f"{stored} is a known data set, and only its recipes make it (refit data list --recipes); "
            "--as NAME stores yours under a name of its own"
        )
    folder = command.out if command.out is not None else writable_home() / stored
    check_free(folder, command.overwrite)
    files = [command.source, *([] if command.social is None else [command.social])]
    names = {"source": [path.resolve().name for path in files]}
    meta = None if named is not None and command.name in CATALOG else names
    recipe: Recipe | NamedRecipe
    if named is None:
        recipe = _recipe(command)
    else:
        _refuse_options(command, named.name)
        unit = named.recipe.time_unit if command.time_unit is None else command.time_unit
        recipe = replace(named, recipe=replace(named.recipe, time_unit=unit))
    return folder, prepare(
        command.name,
        command.source,
        recipe,
        folder,
        stored=stored,
        overwrite=command.overwrite,
        social=command.social,
        meta=meta,
    )


def _refuse_options(command: DataPrepare, recipe: str) -> None:
    """Refuse options that a recipe would ignore."""
    free = ("name", "source", "as_name", "out", "overwrite", "format", "recipe", "time_unit", "json")
    ignored = [
        f.name for f in fields(command) if f.name not in free and getattr(command, f.name) != f.default
    ]
    if ignored:
        options = ", ".join("--" + name.replace("_", "-") for name in ignored)
        raise ValueError(
            f"recipe {recipe} of {command.name} has its own steps, which {options} would not change; "
            "--format makes them apply"
        )


def _recipe(command: DataPrepare) -> Recipe:
    """The preparation that the options describe."""
    wrong = [word for word in command.columns if "=" not in word]
    if wrong:
        raise ValueError(f"--columns {wrong[0]!r} should read ROLE=NAME, for example user=user_id")
    roles = [word.partition("=")[0] for word in command.columns]
    if again := [role for role in roles if roles.count(role) > 1]:
        raise ValueError(f"--columns: {again[0]} is given twice; leave one of them out")
    return Recipe(
        format=command.format,
        columns=dict(word.split("=", 1) for word in command.columns),
        ignore=command.ignore,
        separator=command.separator,
        token_ids=command.token_ids,
        drop_blank=command.drop_blank,
        time_unit=command.time_unit,
        time_ordered=command.time_ordered,
        min_rating=command.min_rating,
        dislike_below=command.dislike_below,
        k_core=command.k_core,
        session=command.session,
        task=command.task,
        split=command.split,
        valid_share=command.valid_share,
        test_share=command.test_share,
        seed=command.seed,
    )


def synthesize_set(command: DataSynthesize) -> int:
    """Generate, write, and print the counts; returns the exit code."""
    with as_options():
        check_free(command.out, command.overwrite)
        dataset = synthesize(command.seed, command.users, command.items, command.clusters)
        save_dataset(dataset, command.out, overwrite=command.overwrite)
    if command.json:
        print_json({"folder": str(command.out), **counts_of(dataset)})
    else:
        say(f"{command.out}: {_sizes(dataset)}")
    return 0


def resplit_set(command: DataResplit) -> int:
    """Split again, write, and print the counts; returns the exit code."""
    with as_options():
        source = named_folder(command.name)
        if source is not None and source.resolve() == command.out.resolve():
            raise ValueError(f"--out {command.out} is the data set that is copied; name another folder")
        check_free(command.out, command.overwrite)
        dataset = latest_as_validation(load_dataset(command.name), command.valid_share)
        if not len(dataset.valid):
            raise ValueError(
                f"--valid-share {command.valid_share} leaves no validation item; name a larger share"
            )
        save_dataset(dataset, command.out, overwrite=command.overwrite)
    if command.json:
        print_json({"folder": str(command.out), **counts_of(dataset)})
    else:
        say(f"{command.out}: {_sizes(dataset)}")
    return 0


def counts_of(dataset: Dataset) -> dict[str, Any]:
    """Name, task and counts of a data set, JSON-plain."""
    sizes = {"users": dataset.num_users, "items": dataset.num_items}
    return (
        {"dataset": dataset.name, "task": dataset.task} | sizes | {s: len(dataset.split(s)) for s in SPLITS}
    )


def _preparation(dataset: Dataset) -> Mapping[str, Any]:
    """The rows, users and items that each step of the preparation left, and its notes."""
    done = dataset.meta["preparation"]
    counts = {"rows": done["rows"], "users_after": done["users"], "items_after": done["items"]}
    return counts | {"notes": list(done.get("notes", ()))}


def _sizes(dataset: Dataset) -> str:
    """Users, items and interactions in words."""
    parts = " / ".join(f"{len(dataset.split(s)):,}" for s in SPLITS)
    return f"{dataset.num_users:,} users, {dataset.num_items:,} items, {parts} train / valid / test"
