"""``refit refit``: a run's model, fitted again to the validation items, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from agents.commands.options import Command, Flag, FolderOption, parse


@dataclass(frozen=True, kw_only=True)
class Refit(Command):
    """Fit the model of a finished run again, to train and validation items together.

    Validation has chosen the settings, the epoch and the iteration; with them the model is made anew, its
    start included, and nothing is chosen again. At test, train and validation items are the input. Some
    published tables are measured so. It is also for a model that is to be used, because the validation items
    are often the latest ones.
    """

    work: ClassVar[str] = "agents.commands.refit_run:run"

    run_dir: Annotated[Path, tyro.conf.arg(name="run")]
    """Run folder of ``pretrain``, ``finetune`` or ``tune``."""
    out: Path
    """Run folder to write, for ``evaluate``, ``recommend``, ``export`` and ``serve``."""
    data: FolderOption = None
    """The folder of own data, where it is elsewhere by now; if left out, that of the run."""
    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` ..."""
    overwrite: Flag = False
    """Replace the run in ``--out``; a finished one is kept until the new one is finished."""
    quiet: Flag = False
    """Show no table."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    command: Refit = parse(Refit, words, "refit refit")
    return command.run()
