"""``refit evaluate``: full-ranking metrics of a run's policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from agents.commands.finetune import RewardChoice
from agents.commands.options import Command, EnvOption, Flag, FolderOption, NameOption, parse


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Rank all items for every user by the noise-free chain, and measure the lists, beyond accuracy, too.

    Items that the model has seen are left out of the lists: train items for ``valid``, train and validation
    items for ``test``.
    """

    work: ClassVar[str] = "agents.commands.evaluate_run:run"

    run_dir: Annotated[Path, tyro.conf.arg(name="run")]
    """The run folder that holds the model."""
    env: EnvOption = None
    """Environment id; if left out, that of the run."""
    data: FolderOption = None
    """Own data instead of ``--env``: a folder in canonical form, or its name in ``refit data list``."""
    rerank: NameOption = None
    """Re-rank the lists: ``popularity_penalty``, ``popularity_power``, ``mmr``, ``xquad``, ``calibrated``,
    ``cover`` or ``spread``."""
    rerank_options: tuple[str, ...] = ()
    """Settings of the re-ranker: ``strength=0.2`` (1 if left out), ``candidates=100``, ``slots=5``."""
    split: Literal["valid", "test"] = "test"
    """Which items count as relevant."""
    goal: tyro.conf.OmitArgPrefixes[RewardChoice] = field(default_factory=RewardChoice)
    """A reward whose mean to measure, too: over the users of the environment's episodes, who are shown what
    its relevance leaves visible."""
    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` ..."""
    other_data: Flag = False
    """Allow a data set other than the one that the model was trained on."""
    other_weights: Flag = False
    """Allow weights other than those that the run in the folder ended with."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    command: Evaluate = parse(Evaluate, words, "refit evaluate")
    return command.run()
