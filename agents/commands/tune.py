"""``refit tune``: what to recommend with on one's own data, tried on validation within given minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import tyro

from agents.commands.options import Command, EnvOption, Flag, FolderOption, NameOption, parse
from agents.tuning.config import StudySettings


@dataclass(frozen=True, kw_only=True)
class Tune(Command):
    """Find what to recommend with on a data set: closed forms, baselines, then fine-tuning of the best.

    Validation chooses. Writes a run folder with the best policy, ``trials.jsonl`` (all trials) and
    ``settings.json`` (for ``--settings`` of ``refit pretrain`` and ``refit finetune``). After Ctrl-C the same
    command continues.
    """

    work: ClassVar[str] = "agents.commands.tune_run:run"

    out: Path
    """Run folder to write, or to continue."""
    env: EnvOption = None
    """Environment id, for its data set."""
    data: FolderOption = None
    """Own data instead of ``--env``: a folder in canonical form, or its name in ``refit data list``."""
    reward: NameOption = None
    """A reward to try besides those that the data suggest: a name, a mix ``racs=1,coverage=0.1``, or one's
    own: ``my_reward.py:FreshHits``, ``package.module:name``."""
    study: tyro.conf.OmitArgPrefixes[StudySettings] = field(default_factory=StudySettings)
    """The budget and the candidates."""
    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` ..."""
    overwrite: Flag = False
    """Replace the run in ``--out``; a finished one is kept until the new one is finished."""
    quiet: Flag = False
    """Print no line for each trial."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    command: Tune = parse(Tune, words, "refit tune")
    return command.run()
