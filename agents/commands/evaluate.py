"""``refit evaluate``: full-ranking metrics of a run's policy."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table

from agents.commands.common import choose_target, note_other_data
from agents.commands.options import EnvOption, Flag, FolderOption, parse
from agents.console import console
from agents.runs.folder import RunFolder
from agents.training.tensors import resolve_device
from refit_env.data import load_dataset
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy
from refit_env.settings import Bounded


@dataclass(frozen=True, kw_only=True)
class Evaluate(Bounded):
    """Rank the whole catalogue for every user by the noise-free chain, and measure.

    Seen items are masked: train items for ``valid``, train and validation items for ``test``.
    """

    run_dir: Annotated[Path, tyro.conf.arg(name="run")]
    """The run folder (its policy is measured)."""
    env: EnvOption = None
    """Environment id; the run's own unless told otherwise."""
    data: FolderOption = None
    """A data set of one's own, instead of ``--env``: its canonical folder, or its name in a data home."""
    split: Literal["valid", "test"] = "test"
    """Which items count as relevant."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` ..."""
    other_data: Flag = False
    """Let the model meet another data set than the one that it was trained on."""
    json: Flag = False
    """Print JSON and nothing else."""

    def run(self) -> int:
        """Evaluate and print."""
        folder = RunFolder.open(self.run_dir)
        target = choose_target(self.env, self.data, fallback=folder.config)
        device = resolve_device(self.device)
        policy = DiffusionPolicy.load(folder.path, device, other_data=self.other_data)
        dataset = load_dataset(target.dataset)
        result = evaluate(policy.scorer(dataset), dataset, self.split, device=device)
        report = {
            "run": str(folder.path),
            "env": target.env_id,
            "dataset": dataset.name,
            "split": self.split,
            "users": len(result.users),
            "metrics": {name: float(value) for name, value in result.means().items()},
            "metrics_over_all_users": {name: float(value) for name, value in result.means_over_all().items()},
        }
        note_other_data(dataset)
        if self.json:
            print(jsonlib.dumps(report, indent=2))
            return 0
        title = f"{folder.path} on {dataset.name} ({self.split}, {len(result.users)} users)"
        table = Table("metric", title=title, min_width=48)
        table.add_column("value", justify="right")
        for name, value in result.means().items():
            table.add_row(name, f"{value:.4f}")
        console().print(table)
        return 0


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    command: Evaluate = parse(Evaluate, words, "refit evaluate")
    return command.run()
