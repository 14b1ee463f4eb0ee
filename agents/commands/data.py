"""``refit data``: lists, inspects, prepares and generates data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro
from msgspec import Meta

from agents.commands.options import Command, FileOption, Flag, FolderOption, NameOption, parse
from refit_env.data.recipe import Core, Rating, Separator
from refit_env.errors import SettingError
from refit_env.settings import PartialShare, Seed


@dataclass(frozen=True)
class DataList(Command):
    """List the known data sets: which are on this machine, their sizes, and where to get the others."""

    work: ClassVar[str] = "agents.commands.data_run:list_sets"

    recipes: Flag = False
    """List the recipes of ``refit data prepare`` instead: the data set, the files, the paper."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""


@dataclass(frozen=True)
class DataInfo(Command):
    """Print the facts of one data set: counts, density, activity, popularity, source, licence."""

    work: ClassVar[str] = "agents.commands.data_run:info"

    name: tyro.conf.Positional[str]
    """A name of ``refit data list``, or a folder in canonical form."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""


@dataclass(frozen=True)
class DataPrepare(Command):
    """Turn official files, or your own, into the canonical form.

    A known data set has its own recipes (``refit data list --recipes``): the first one whose files are there
    is used, or the one that ``--recipe`` names, and the options from ``--columns`` on are refused. With
    ``--format`` all options apply, whatever the name.
    """

    work: ClassVar[str] = "agents.commands.data_run:prepare_set"

    name: tyro.conf.Positional[str]
    """Name of the data set; a known name is kept for the result of its recipes."""
    source: Path
    """The official file, or the folder that holds the format's files."""
    as_name: Annotated[str | None, tyro.conf.arg(name="as", metavar="NAME")] = None
    """Another name for the result."""
    out: FolderOption = None
    """Folder to write; if left out, ``<data home>/<name>``."""
    overwrite: Flag = False
    """Replace the data set that is there."""
    social: FileOption = None
    """Table of friends, such as ``user,friend``: a header, then two users a line, the second is a friend of
    the first. The task becomes ``social``."""
    recipe: NameOption = None
    """A paper's preprocessing by name, such as ``dreamrec-yoochoose``, ``recdiff`` or ``diff-poi``."""
    format: NameOption = None
    """``csv``, ``inter``, ``u.data``, ``lightgcn``, ``tsmc2014`` ...; if left out, the recipe's, or found by
    the names of the files."""
    columns: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROLE=NAME")] = ()
    """For ``csv`` and ``inter``: ``user=visitor item=article rating=stars timestamp=when split=part``; usual
    names are found without this option."""
    ignore: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """For ``csv`` and ``inter``: columns that are not read."""
    separator: Annotated[Separator | None, tyro.conf.arg(metavar="CHARACTER")] = None
    """For ``csv``: the character between the fields, ``tab`` for a tab; if left out, found in the header."""
    token_ids: Flag = False
    """Ids may be any text; they are numbered in ascending order."""
    drop_blank: Flag = False
    """For ``csv`` and ``inter``: leave out rows in which a used field is empty, and count them."""
    time_unit: Literal["s", "ms", "us", "ns", "days"] | None = None
    """Unit of times that are numbers; if left out, found where it is certain."""
    time_ordered: Flag = False
    """The rows of each user are in order of time, although the file has no timestamps."""
    min_rating: Annotated[Rating | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Keep interactions with at least this rating."""
    dislike_below: Annotated[Rating | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Keep ratings below this one as dislikes, which the reward ``dislikes`` and the metric ``dislikes@K``
    read; they are no interactions."""
    k_core: Core = 0
    """Remove users and items with fewer interactions than this, until none is left."""
    session: Literal["", "day"] = ""
    """``day``: each day of a user becomes a user of its own, as a session."""
    task: Literal["cf", "sequential", "social", "poi"] = "cf"
    """The recommendation task; ``sequential`` and ``poi`` keep repeated interactions."""
    split: Literal["published", "random", "time", "quantile", "sessions", "leave-one-out"] = "random"
    """How each user's interactions become train, validation and test; ``sessions`` splits by whole users."""
    valid_share: PartialShare = 0.1
    """Share of each user's interactions for validation."""
    test_share: PartialShare = 0.2
    """Share of each user's interactions for test."""
    seed: Seed = 0
    """Seed of random splits."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""


@dataclass(frozen=True)
class DataSynthesize(Command):
    """Generate a data set of any size, as ReFiT-Synthetic-v0 is generated."""

    work: ClassVar[str] = "agents.commands.data_run:synthesize_set"

    out: Path
    """Folder to write."""
    seed: Seed = 0
    """Seed; the same one gives the same data on any platform."""
    users: Annotated[int, Meta(ge=1, le=1_000_000)] = 800
    """Number of users."""
    items: Annotated[int, Meta(ge=18, le=100_000)] = 400
    """Number of items."""
    clusters: Annotated[int, Meta(ge=1, le=10_000)] = 8
    """Number of taste clusters."""
    overwrite: Flag = False
    """Replace the data set that is there."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""

    def check_together(self) -> None:
        """Refuse clusters without items."""
        if self.items < 3 * self.clusters:
            raise SettingError("items", f"must be >= {3 * self.clusters}, 3 a cluster, found {self.items}")


@dataclass(frozen=True)
class DataResplit(Command):
    """Write a copy of a data set whose validation split is the latest part of the train split.

    For choosing settings where the published validation items do not follow the train items in time. The
    published validation items are left out of the copy. Train and test the chosen model on the published set.
    """

    work: ClassVar[str] = "agents.commands.data_run:resplit_set"

    name: tyro.conf.Positional[str]
    """A name of ``refit data list``, or a folder in canonical form."""
    out: Path
    """Folder to write."""
    valid_share: Annotated[float, Meta(gt=0, lt=1)] = 0.125
    """Share of each user's train items that becomes validation."""
    overwrite: Flag = False
    """Replace the data set that is there."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""


DataCommand = (
    Annotated[DataList, tyro.conf.subcommand("list")]
    | Annotated[DataInfo, tyro.conf.subcommand("info")]
    | Annotated[DataPrepare, tyro.conf.subcommand("prepare")]
    | Annotated[DataResplit, tyro.conf.subcommand("resplit")]
    | Annotated[DataSynthesize, tyro.conf.subcommand("synthesize")]
)


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    command: DataList | DataInfo | DataPrepare | DataResplit | DataSynthesize = parse(
        DataCommand, words, "refit data"
    )
    return command.run()
