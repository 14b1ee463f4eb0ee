"""``refit data``: list, inspect, prepare and synthesize data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from msgspec import Meta
from rich.table import Table

from agents.commands.data_tables import (
    COLUMNS,
    damage,
    describe,
    describe_absent,
    list_row,
    print_recipes,
    wide_console,
)
from agents.commands.options import Flag, FolderOption, NameOption, parse
from agents.console import console, say
from refit_env.data import Dataset, data_homes, list_datasets, load_dataset, save_dataset, synthesize
from refit_env.data.catalog import CATALOG
from refit_env.data.dataset import SPLITS
from refit_env.data.home import find_dataset, find_raw, writable_home
from refit_env.data.messages import as_options
from refit_env.data.prepare import prepare, prepare_known, prepare_named
from refit_env.data.recipe import Core, Rating, Recipe, Separator
from refit_env.data.recipes import NamedRecipe, choose_recipe
from refit_env.data.saving import check_free, check_name
from refit_env.errors import SettingError
from refit_env.settings import Bounded, PartialShare, Seed


@dataclass(frozen=True)
class DataList:
    """List the known data sets: which are here, how large they are, where to get the others."""

    recipes: Flag = False
    """List the recipes of ``refit data prepare`` instead: for which set, from which files, whose."""

    def run(self) -> int:
        """Print the table; nothing but each set's ``dataset.json`` is read."""
        if self.recipes:
            return print_recipes()
        table = Table(title="Data sets", box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for name in COLUMNS:
            table.add_column(name, justify="left" if name in ("name", "task", "timed", "here") else "right")
        found = list_datasets()
        for name, folder in found.items():
            table.add_row(*list_row(name, folder))
        wide_console(table).print(table)
        for name, folder in found.items():
            if folder is None and name in CATALOG:
                say(f"{name}: {CATALOG[name].page}")
            elif folder is not None and (wrong := damage(folder)) is not None:
                say(f"{name}: {wrong}")
        say(f"Data homes: {', '.join(map(str, data_homes()))} (REFIT_DATA_HOME changes the first)")
        return 0


@dataclass(frozen=True)
class DataInfo:
    """Print what is known of one data set: counts, density, activity, popularity, source, licence."""

    name: tyro.conf.Positional[str]
    """A name of ``refit data list``, or a folder in canonical form."""

    def run(self) -> int:
        """Load the data set and print; of a known set that is not here, print what the catalogue knows."""
        known = CATALOG.get(self.name)
        here = known is None or find_dataset(self.name) is not None or find_raw(known) is not None
        facts = describe(load_dataset(self.name)) if here or known is None else describe_absent(known)
        table = Table(title=self.name, show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for key, value in facts.items():
            table.add_row(key, str(value))
        console().print(table)
        return 0


@dataclass(frozen=True)
class DataPrepare(Bounded):
    """Turn official files, or your own, into the canonical form.

    A catalogue name brings its own recipes (``refit data list --recipes``); the first whose files are there
    is taken, or the one that ``--recipe`` names, and the options from ``--columns`` on are then refused. With
    ``--format`` they all apply, whatever the name.
    """

    name: tyro.conf.Positional[str]
    """Name of the data set; one of the catalogue takes only what its recipes make."""
    source: Path
    """The official file, or the folder that holds the format's files."""
    as_name: Annotated[str | None, tyro.conf.arg(name="as", metavar="NAME")] = None
    """Another name to store it under."""
    out: FolderOption = None
    """Canonical folder to write; ``<data home>/<name>`` if left out."""
    overwrite: Flag = False
    """Replace the data set that is there."""
    recipe: NameOption = None
    """A paper's preprocessing by name, such as ``dreamrec-yoochoose``, ``recdiff`` or ``diff-poi``."""
    format: NameOption = None
    """``csv``, ``inter``, ``u.data``, ``lightgcn``, ``tsmc2014`` ...; the recipe's, or what the names of the
    files suggest, if left out."""
    columns: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROLE=NAME")] = ()
    """For ``csv`` and ``inter``: ``user=visitor item=article rating=stars timestamp=when split=part``; the
    usual names are found without."""
    ignore: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """For ``csv`` and ``inter``: columns that are not read, whatever their names."""
    separator: Annotated[Separator | None, tyro.conf.arg(metavar="CHARACTER")] = None
    """For ``csv``: between the fields, ``tab`` for a tab; found in the header if left out."""
    token_ids: Flag = False
    """Ids may be any text (they are numbered in ascending order)."""
    drop_blank: Flag = False
    """For ``csv`` and ``inter``: drop rows in which a field that is used is empty, and count them."""
    time_unit: Literal["s", "ms", "us", "ns", "days"] | None = None
    """Of times that are numbers; found if left out, where it is certain."""
    time_ordered: Flag = False
    """The rows of each user stand in order of time, although the file has no timestamps."""
    min_rating: Annotated[Rating | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Keep interactions rated at least this."""
    k_core: Core = 0
    """Drop users and items with fewer interactions, repeatedly."""
    session: Literal["", "day"] = ""
    """``day`` makes each day of a user a session, that is a user, of its own."""
    task: Literal["cf", "sequential", "social", "poi"] = "cf"
    """What the set is for; ``sequential`` and ``poi`` keep repeats, as events of their own."""
    split: Literal["published", "random", "time", "quantile", "sessions", "leave-one-out"] = "random"
    """How each user's interactions become train, validation and test; ``sessions`` deals out whole users."""
    valid_share: PartialShare = 0.1
    """Share of each row for validation."""
    test_share: PartialShare = 0.2
    """Share of each row for test."""
    seed: Seed = 0
    """Of random splits."""

    def run(self) -> int:
        """Prepare, write, and say what came out."""
        with as_options():
            folder, dataset = self._prepared()
        steps = Table("step", title=f"{dataset.name}: rows", min_width=32)
        steps.add_column("left", justify="right")
        for step, rows in dataset.meta["preparation"]["rows"].items():
            steps.add_row(step, f"{rows:,}")
        console().print(steps)
        for note in dataset.meta["preparation"].get("notes", ()):
            say(note)
        say(f"{folder}: {_sizes(dataset)}")
        if dataset.name not in CATALOG:
            say(f"Use it by --data {dataset.name if self.out is None else self.out}")
        return 0

    def _prepared(self) -> tuple[Path, Dataset]:
        """By a named recipe, or as the options say; and the folder that it was written into."""
        stored = self.name if self.as_name is None else self.as_name
        check_name(self.name)
        check_name(stored)
        if self.recipe is not None and self.format is not None:
            raise ValueError(f"--recipe {self.recipe} brings its format; leave out --format {self.format}")
        named = None if self.format is not None else choose_recipe(self.name, self.source, self.recipe)
        if stored in CATALOG and (named is None or stored != self.name):
            raise ValueError(
                f"{stored} is a known data set, and only its recipes make it (refit data list --recipes); "
                "--as NAME stores yours under a name of its own"
            )
        folder = self.out if self.out is not None else writable_home() / stored
        check_free(folder, self.overwrite)
        if named is None:
            meta = {"source": [self.source.name]}
            return folder, prepare(
                stored, self.source, self._recipe(), folder, overwrite=self.overwrite, meta=meta
            )
        self._refuse_options(named.name)
        if self.time_unit is not None:
            named = replace(named, recipe=replace(named.recipe, time_unit=self.time_unit))
        return folder, self._by_recipe(named, stored, folder)

    def _by_recipe(self, named: NamedRecipe, stored: str, folder: Path) -> Dataset:
        """By a recipe of the catalogue's, of whichever data set."""
        if self.name in CATALOG:
            known = CATALOG[self.name]
            return prepare_known(known, self.source, folder, named, name=stored, overwrite=self.overwrite)
        dataset = prepare_named(self.name, self.source, named, meta={"source": [self.source.name]})
        dataset = replace(dataset, name=stored)
        save_dataset(dataset, folder, overwrite=self.overwrite)
        return dataset

    def _refuse_options(self, recipe: str) -> None:
        """An option that would go unheard is a mistake."""
        free = ("name", "source", "as_name", "out", "overwrite", "format", "recipe", "time_unit")
        told = [f.name for f in fields(self) if f.name not in free and getattr(self, f.name) != f.default]
        if told:
            options = ", ".join("--" + name.replace("_", "-") for name in told)
            raise ValueError(
                f"recipe {recipe} of {self.name} has its own steps, which {options} would not change; "
                "say --format, too"
            )

    def _recipe(self) -> Recipe:
        wrong = [word for word in self.columns if "=" not in word]
        if wrong:
            raise ValueError(f"--columns {wrong[0]!r} should read ROLE=NAME, for example user=user_id")
        return Recipe(
            format=self.format,
            columns=dict(word.split("=", 1) for word in self.columns),
            ignore=self.ignore,
            separator=self.separator,
            token_ids=self.token_ids,
            drop_blank=self.drop_blank,
            time_unit=self.time_unit,
            time_ordered=self.time_ordered,
            min_rating=self.min_rating,
            k_core=self.k_core,
            session=self.session,
            task=self.task,
            split=self.split,
            valid_share=self.valid_share,
            test_share=self.test_share,
            seed=self.seed,
        )


@dataclass(frozen=True)
class DataSynthesize(Bounded):
    """Write a data set of the generator behind ReFiT-Synthetic-v0, of any size."""

    out: Path
    """Canonical folder to write."""
    seed: Seed = 0
    """The same seed gives the same data on any platform."""
    users: Annotated[int, Meta(ge=1, le=1_000_000)] = 800
    """Number of users."""
    items: Annotated[int, Meta(ge=3, le=100_000)] = 400
    """Number of items."""
    clusters: Annotated[int, Meta(ge=1, le=10_000)] = 8
    """Number of taste clusters."""
    overwrite: Flag = False
    """Replace the data set that is there."""

    def check_together(self) -> None:
        """Refuse clusters without items."""
        if self.items < 3 * self.clusters:
            raise SettingError("items", f"must be >= {3 * self.clusters}, 3 a cluster, found {self.items}")

    def run(self) -> int:
        """Generate and write."""
        with as_options():
            check_free(self.out, self.overwrite)
            dataset = synthesize(self.seed, self.users, self.items, self.clusters)
            save_dataset(dataset, self.out, overwrite=self.overwrite)
        say(f"{self.out}: {_sizes(dataset)}")
        return 0


def _sizes(dataset: Dataset) -> str:
    parts = " / ".join(f"{len(dataset.split(s)):,}" for s in SPLITS)
    return f"{dataset.num_users:,} users, {dataset.num_items:,} items, {parts} train / valid / test"


DataCommand = (
    Annotated[DataList, tyro.conf.subcommand("list")]
    | Annotated[DataInfo, tyro.conf.subcommand("info")]
    | Annotated[DataPrepare, tyro.conf.subcommand("prepare")]
    | Annotated[DataSynthesize, tyro.conf.subcommand("synthesize")]
)


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    command: DataList | DataInfo | DataPrepare | DataSynthesize = parse(DataCommand, words, "refit data")
    return command.run()
