"""``refit demo``: pretraining, fine-tuning and its control on the embedded data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from agents.algorithms.configs import ReinforceConfig
from agents.commands.options import Command, Flag, Repeats, parse
from agents.training.pretrain_config import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Pretrain a diffusion recommender, fine-tune it with REINFORCE, and compare both on test items.

    The control is the same network, trained by its own loss on the information that the reward has: the
    earlier part of a history in, the whole history out. The demo needs no files and no network, and runs
    for less than three minutes on two cores.
    """

    work: ClassVar[str] = "agents.commands.demo_run:run"

    out: Path = Path("runs/demo")
    """Folder for the runs; an earlier demo in it is replaced."""
    seeds: Repeats = 3
    """Number of repetitions, each with another seed."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """Settings of pretraining."""
    agent: ReinforceConfig = field(
        default_factory=lambda: ReinforceConfig(iterations=60, learning_rate=3e-5, eval_every=10)
    )
    """Settings of REINFORCE."""
    device: str = "cpu"
    """``auto``, ``cpu``, ``cuda`` ...; for a model this small the CPU is fastest."""
    quiet: Flag = False
    """Show no progress bars."""
    json: Flag = False
    """Print one JSON document on the standard output, and nothing else."""


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    command: Demo = parse(Demo, words, "refit demo")
    return command.run()
