"""``refit data``: list, inspect, prepare and synthesize data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from refit_env.data import Dataset, data_homes, list_datasets, load_dataset, save_dataset, synthesize
from refit_env.data.catalog import CATALOG
from refit_env.data.dataset import SPLITS
from refit_env.data.home import find_raw, writable_home
from refit_env.data.prepare import Recipe, prepare, prepare_known
from refit_env.files import read_json

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A switch without its ``--no-`` twin. (The other commands' helpers would import torch.)"""
FolderOption = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")]
"""A folder that may be left out."""
FormatOption = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
"""A format that may be left out."""


@dataclass(frozen=True)
class DataList:
    """List the known data sets: which are here, how large they are, where to get the others."""

    def run(self) -> int:
        """Print the table; nothing but each set's ``dataset.json`` is read."""
        table = Table(title="Data sets", box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for name in ("name", "task", "users", "items", *SPLITS, "timed", "here"):
            table.add_column(name, justify="right" if name in ("users", "items", *SPLITS) else "left")
        found = list_datasets()
        for name, folder in found.items():
            table.add_row(*_row(name, folder))
        console = Console()
        console.print(table)
        for name, folder in found.items():
            if folder is None and name in CATALOG:
                console.print(f"{name}: {CATALOG[name].page}", soft_wrap=True)
        console.print(
            f"Data homes: {', '.join(map(str, data_homes()))} (REFIT_DATA_HOME changes the first)",
            soft_wrap=True,
        )
        return 0


@dataclass(frozen=True)
class DataInfo:
    """Print what is known of one data set: counts, density, activity, popularity, source, licence."""

    name: tyro.conf.Positional[str]
    """A name of ``refit data list``, or a folder in canonical form."""

    def run(self) -> int:
        """Load the data set and print."""
        dataset = load_dataset(self.name)
        table = Table(title=dataset.name, show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for key, value in describe(dataset).items():
            table.add_row(key, str(value))
        Console().print(table)
        return 0


@dataclass(frozen=True)
class DataPrepare:
    """Turn official files, or your own, into the canonical form.

    A catalogue name brings its own recipe, and the options from ``--columns`` on are then refused. With
    ``--format`` they all apply, whatever the name.
    """

    name: tyro.conf.Positional[str]
    """Name of the data set."""
    source: Path
    """The official file, or the folder that holds the format's files."""
    out: FolderOption = None
    """Canonical folder to write; ``<data home>/<name>`` if left out."""
    format: FormatOption = None
    """``u.data``, ``ratings.dat``, ``diffrec``, ``lightgcn``, ``inter`` or ``csv``; the catalogue's, or what
    the names of the files suggest, if left out."""
    columns: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROLE=NAME")] = ()
    """For ``csv`` and ``inter``: ``user=visitor item=article rating=stars timestamp=when split=part``; the
    usual names are found without."""
    separator: str = ","
    """For ``csv``: between the fields."""
    token_ids: Flag = False
    """Ids may be any text (they are numbered in ascending order)."""
    time_ordered: Flag = False
    """The rows of each user stand in order of time, although the file has no timestamps."""
    min_rating: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Keep interactions rated at least this."""
    k_core: int = 0
    """Drop users and items with fewer interactions, repeatedly."""
    split: Literal["published", "random", "time", "leave-one-out"] = "random"
    """How each user's interactions become train, validation and test."""
    valid_share: float = 0.1
    """Share of each row for validation."""
    test_share: float = 0.2
    """Share of each row for test."""
    seed: int = 0
    """Of random splits."""

    def run(self) -> int:
        """Prepare, write, and say what came out."""
        known = CATALOG.get(self.name)
        folder = self.out if self.out is not None else writable_home() / self.name
        if self.format is None and known is not None and known.can_prepare:
            self._refuse_options()
            dataset = prepare_known(known, self.source, folder)
        else:
            meta = {"source": [self.source.name]}
            dataset = prepare(self.name, self.source, self._recipe(), folder, meta=meta)
        console = Console()
        steps = Table("step", title=f"{self.name}: rows", min_width=32)
        steps.add_column("left", justify="right")
        for step, rows in dataset.meta["preparation"]["rows"].items():
            steps.add_row(step, f"{rows:,}")
        console.print(steps)
        console.print(f"{folder}: {_sizes(dataset)}", soft_wrap=True)
        return 0

    def _refuse_options(self) -> None:
        """An option that would go unheard is a mistake."""
        free = ("name", "source", "out", "format")
        told = [f.name for f in fields(self) if f.name not in free and getattr(self, f.name) != f.default]
        if told:
            options = ", ".join("--" + name.replace("_", "-") for name in told)
            raise ValueError(
                f"{self.name} has its own recipe, which {options} would not change; say --format, too"
            )

    def _recipe(self) -> Recipe:
        wrong = [word for word in self.columns if "=" not in word]
        if wrong:
            raise ValueError(f"--columns {wrong[0]!r} should read ROLE=NAME, for example user=user_id")
        return Recipe(
            format=self.format,
            columns=dict(word.split("=", 1) for word in self.columns),
            separator=self.separator,
            token_ids=self.token_ids,
            time_ordered=self.time_ordered,
            min_rating=self.min_rating,
            k_core=self.k_core,
            split=self.split,
            valid_share=self.valid_share,
            test_share=self.test_share,
            seed=self.seed,
        )


@dataclass(frozen=True)
class DataSynthesize:
    """Write a data set of the generator behind ReFiT-Synthetic-v0, of any size."""

    out: Path
    """Canonical folder to write."""
    seed: int = 0
    """The same seed gives the same data on any platform."""
    users: int = 800
    """Number of users."""
    items: int = 400
    """Number of items."""
    clusters: int = 8
    """Number of taste clusters."""

    def run(self) -> int:
        """Generate and write."""
        dataset = synthesize(self.seed, self.users, self.items, self.clusters)
        save_dataset(dataset, self.out)
        Console().print(f"{self.out}: {_sizes(dataset)}")
        return 0


def describe(dataset: Dataset) -> dict[str, Any]:
    """The facts of ``refit data info``."""
    counts = dataset.train.counts
    popularity = np.sort(np.bincount(dataset.train.items, minlength=dataset.num_items))[::-1]
    head = popularity[: max(1, popularity.size // 10)].sum() / popularity.sum()
    total = sum(len(dataset.split(s)) for s in SPLITS)
    facts: dict[str, Any] = {
        "task": dataset.task,
        "users x items": f"{dataset.num_users:,} x {dataset.num_items:,}",
        "train / valid / test": " / ".join(f"{len(dataset.split(s)):,}" for s in SPLITS),
        "density": f"{total / (dataset.num_users * dataset.num_items):.3%}",
        "train items a user": f"median {np.median(counts):.0f}, least {counts.min()}, most {counts.max()}",
        "most popular tenth of the items": f"{head:.0%} of the train interactions",
        "rows in order of time": "yes" if dataset.time_ordered else "no",
        "social edges": "none" if dataset.social is None else f"{len(dataset.social):,}",
    }
    known = ("split", "source", "licence", "note", "duplicates_merged")
    told = {key.replace("_", " "): dataset.meta[key] for key in known if key in dataset.meta}
    return facts | {
        key: "\n".join(value) if isinstance(value, list) else value for key, value in told.items()
    }


def _row(name: str, folder: Path | None) -> list[str]:
    """One line of ``refit data list``."""
    known = CATALOG.get(name)
    if known is None:
        data = load_dataset(name)
        sizes = [data.num_users, data.num_items, *(len(data.split(s)) for s in SPLITS)]
        return [name, data.task, *(f"{n:,}" for n in sizes), "yes", "yes"]
    order = "yes" if known.time_ordered else "no"
    if folder is None:
        complete = ["", ""] if known.counts is None else [f"{n:,}" for n in known.counts[:2]]
        here = "raw" if find_raw(known) is not None else "no"
        return [name, known.task, *complete, "", "", "", order, here]
    info = read_json(folder / "dataset.json")
    sizes = [info["num_users"], info["num_items"], *(info[f"num_{s}"] for s in SPLITS)]
    return [name, known.task, *(f"{n:,}" for n in sizes), order, "yes"]


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
    command: DataList | DataInfo | DataPrepare | DataSynthesize = tyro.cli(
        DataCommand,
        prog="refit data",
        args=list(words),
    )
    return command.run()
