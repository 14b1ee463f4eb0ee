"""``refit baseline``: a recommender that is no diffusion model, fitted and measured as policies are."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.table import Table

from agents.baselines import measure_baseline, names_for
from agents.commands.common import choose_target, note_other_data, parse_options
from agents.commands.options import EnvOption, Flag, FolderOption, parse
from agents.console import console
from agents.training.tensors import resolve_device
from refit_env.data import load_dataset
from refit_env.settings import Bounded, Seed
from refit_env.utils.atomic_io import write_json


@dataclass(frozen=True, kw_only=True)
class BaselineCommand(Bounded):
    """Fit a baseline to the train items, rank the whole catalogue for every user, and measure.

    Seen items are masked as ``refit evaluate`` masks them: train items for ``valid``, train and validation
    items for ``test``.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Baselines, such as ``ease item-knn``; none lists those that the data set takes."""
    env: EnvOption = None
    """Environment id: it says which data set."""
    data: FolderOption = None
    """A data set of one's own, instead of ``--env``: its canonical folder, or its name in a data home."""
    settings: tuple[str, ...] = ()
    """Changes to the settings of the baseline, for example ``l2=500``; for one baseline."""
    seed: Seed = 0
    """Of its random numbers."""
    split: Literal["valid", "test"] = "test"
    """Which items count as relevant."""
    refit: Flag = False
    """Fit again to train and validation items after validation chose; both are the input at test."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` ...: where those with gradient steps are trained."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file to write the reports to; it must not exist."""
    json: Flag = False
    """Print the reports as JSON and nothing else."""

    def run(self) -> int:
        """Fit, evaluate and print."""
        target = choose_target(self.env, self.data)
        if self.settings and len(self.names) != 1:
            raise ValueError(f"--settings are those of one baseline; {len(self.names)} are named")
        if self.out is not None and self.out.exists():
            raise ValueError(f"--out {self.out} exists; name another file, or delete it first")
        dataset = load_dataset(target.dataset)
        if not self.names:
            print("\n".join(names_for(dataset)))
            return 0
        device = resolve_device(self.device)
        reports = []
        for name in self.names:
            _, report = measure_baseline(
                dataset,
                name,
                parse_options(self.settings),
                self.seed,
                self.split,
                refit=self.refit,
                device=device,
            )
            reports.append({"env": target.env_id} | report)
        if self.out is not None:
            write_json(self.out, reports)
        note_other_data(dataset)
        if self.json:
            print(jsonlib.dumps(reports, indent=2))
        else:
            console().print(_table(reports, f"{dataset.name} ({self.split}, {reports[0]['users']} users)"))
        return 0


def _table(reports: Sequence[dict[str, Any]], title: str) -> Table:
    """A row for each baseline, the best NDCG first."""
    metrics = [name for name in reports[0]["metrics"] if name.startswith(("recall@", "ndcg@"))]
    table = Table("baseline", title=title)
    for name in [*metrics, "seconds"]:
        table.add_column(name, justify="right")
    for report in sorted(reports, key=lambda report: -report["metrics"][metrics[-1]]):
        values = [f"{report['metrics'][name]:.4f}" for name in metrics]
        table.add_row(report["baseline"], *values, f"{report['cost']['fit']['seconds']:.1f}")
    return table


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    command: BaselineCommand = parse(BaselineCommand, words, "refit baseline")
    return command.run()
