"""``refit import``: a model that was trained elsewhere becomes a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from agents.commands.options import Command, CountOption, EnvOption, EtaOption, Flag, FolderOption, parse


@dataclass(frozen=True, kw_only=True)
class Import(Command):
    """Read the weights of a model that was trained elsewhere, and measure it on the data.

    Nothing in the file is executed. Writes a run folder that ``refit finetune --init`` starts from.
    """

    work: ClassVar[str] = "agents.commands.importing_run:run"

    file: tyro.conf.Positional[Path]
    """The file: of ``torch.save(model.state_dict(), FILE)``, or the whole model, as DiffRec saves it."""
    origin: Annotated[Literal["diffrec"], tyro.conf.arg(name="from")]
    """Whose code trained it: ``diffrec``, the code of DiffRec's authors."""
    out: Path
    """Run folder to write."""
    env: EnvOption = None
    """Environment id; it sets the data set."""
    data: FolderOption = None
    """Own data instead of ``--env``: a folder in canonical form, or its name in ``refit data list``. Its
    items must have the numbers that they had in training."""
    backbone_options: tuple[str, ...] = ()
    """What the weights do not state: ``num_steps=5 noise_scale=0.01 noise_min=0.001 noise_max=0.01`` ...; the
    others are those published for the data set."""
    num_steps: CountOption = None
    """T, the length of the saved policy's chain; if left out, all steps of the training."""
    eta: EtaOption = None
    """Share of the posterior's noise in the saved policy's denoising steps; if left out, 1."""
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
    command: Import = parse(Import, words, "refit import")
    return command.run()
