"""``refit baseline``: a recommender that is no diffusion model, fitted and measured as policies are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro
from msgspec import Meta

from agents.commands.options import Command, EnvOption, Flag, FolderOption, parse
from refit_env.settings import Seed


@dataclass(frozen=True, kw_only=True)
class BaselineCommand(Command):
    """Fit a baseline to the train items, rank all items for every user, and measure the lists.

    Items that the baseline has seen are left out of the lists, as in ``refit evaluate``: train items for
    ``valid``, train and validation items for ``test``.
    """

    work: ClassVar[str] = "agents.commands.baseline_run:run"

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Baselines, such as ``ease item-knn``; none lists those that work on the data set."""
    env: EnvOption = None
    """Environment id; it sets the data set."""
    data: FolderOption = None
    """Own data instead of ``--env``: a folder in canonical form, or its name in ``refit data list``."""
    settings: tuple[str, ...] = ()
    """Changes to the settings of the baseline, for example ``l2=500``; for one baseline. ``--tune`` searches
    the others."""
    seed: Seed = 0
    """Seed of the baseline's random numbers."""
    split: Literal["valid", "test"] = "test"
    """Which items count as relevant."""
    refit: Flag = False
    """Fit again to train and validation items after validation chose; both are the input at test."""
    tune: FolderOption = None
    """Folder: choose the settings on validation first; what was tried is in FOLDER/NAME.json, and the same
    command goes on with it."""
    trials: Annotated[Annotated[int, Meta(ge=1, le=10_000)] | None, tyro.conf.arg(metavar="INT")] = None
    """With ``--tune``: most trials of a baseline; 20 if left out."""
    minutes: Annotated[Annotated[float, Meta(gt=0, le=100_000)] | None, tyro.conf.arg(metavar="FLOAT")] = None
    """With ``--tune``: processor minutes of a baseline after which no trial is begun; 60 if left out."""
    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` ...; for baselines with gradient steps."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file to write the reports to; it must not exist."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    command: BaselineCommand = parse(BaselineCommand, words, "refit baseline")
    return command.run()
