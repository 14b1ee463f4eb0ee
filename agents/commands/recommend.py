"""``refit recommend``: one user's list, or those of all users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro
from msgspec import Meta

from agents.commands.options import (
    Command,
    CountOption,
    EnvOption,
    FileOption,
    Flag,
    FolderOption,
    NameOption,
    Workers,
    parse,
)


@dataclass(frozen=True, kw_only=True)
class Recommend(Command):
    """Print the items that a run's model ranks first for a user, or for the owner of a history.

    The model sees every interaction of the user, validation and test items included, and the list leaves all
    of these items out (``--repeats`` allows them). Ids are those of the data's source. ``--protocol`` prints
    the list that ``refit evaluate`` measures instead. ``--all-users`` writes a file of everyone's list.
    """

    work: ClassVar[str] = "agents.commands.recommend_run:run"

    run_dir: Annotated[Path, tyro.conf.arg(name="run")]
    """The run folder that holds the model."""
    user: NameOption = None
    """The user's id, exactly as the source writes it (``--user=-7`` where it begins with a dash)."""
    history: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ITEM")] = ()
    """Instead of ``--user``, the items of a person who is in no data set, oldest first."""
    all_users: Flag = False
    """Instead of ``--user``, every user of the data set: a Parquet file with a row for each user and rank,
    ``user``, ``rank`` (from 1), ``item`` and ``score``, users in the order of their numbers."""
    out: FileOption = None
    """The file of ``--all-users``; its name ends in ``.parquet``."""
    overwrite: Flag = False
    """Replace a file that exists."""
    engine: Literal["process", "ray"] = "process"
    """With ``--all-users``: ``process``, in this process; ``ray``, a Ray Data job (extra ``ray``) on the
    cluster of ``RAY_ADDRESS``, or on this machine; every worker must be able to read the run and the data."""
    workers: Workers = 2
    """With ``--engine ray``: copies of the model."""
    users_per_batch: Annotated[int, Meta(ge=1, le=100_000)] = 256
    """With ``--all-users``: users that are ranked at once."""
    allow: FileOption = None
    """A file of item ids, a line each: the list holds no other items."""
    deny: FileOption = None
    """A file of item ids, a line each: the list holds none of them."""
    top: CountOption = None
    """Length of the list; if left out, 10, or all items that may be in it where they are fewer."""
    repeats: Flag = False
    """The list may hold items that the user has: what is visited or bought again. Only of sessions and visits
    in order of time, of which ``refit evaluate`` measures such lists."""
    internal_ids: Flag = False
    """Users and items are the numbers that the data set gives them, from 0, in and out."""
    protocol: Flag = False
    """Print the list that is measured: the model sees the train items, the list leaves out train and
    validation items, test items are marked. Of data in order of time: the list of the user's last row, with
    nothing left out."""
    env: EnvOption = None
    """Environment id; if left out, that of the run."""
    data: FolderOption = None
    """Own data instead of ``--env``: a folder in canonical form, or its name in ``refit data list``."""
    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` ..."""
    other_data: Flag = False
    """Allow a data set other than the one that the model was trained on."""
    other_weights: Flag = False
    """Allow weights other than those that the run in the folder ended with."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else: ids, and the data set's numbers of
    them."""


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    command: Recommend = parse(Recommend, words, "refit recommend")
    return command.run()
