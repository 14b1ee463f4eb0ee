"""The work of ``refit baseline``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from agents.baselines import measure_baseline, names_for
from agents.commands.baseline import BaselineCommand
from agents.commands.common import choose_target, note_other_data
from agents.commands.options import parse_options
from agents.console import console, print_json, say
from agents.training.tensors import resolve_device
from refit_env.data import load_dataset
from refit_env.utils.atomic_io import write_json


def run(command: BaselineCommand) -> int:
    """Fit, evaluate and print; returns the exit code."""
    target = choose_target(command.env, command.data)
    if command.settings and len(command.names) != 1:
        raise ValueError(f"--settings are those of one baseline; {len(command.names)} are named")
    if command.out is not None and command.out.exists():
        raise ValueError(f"--out {command.out} exists; name another file, or delete it first")
    dataset = load_dataset(target.dataset)
    if not command.names:
        names = list(names_for(dataset))
        if command.json:
            print_json(names)
        else:
            say("\n".join(names))
        return 0
    device = resolve_device(command.device)
    reports = []
    for name in command.names:
        _, report = measure_baseline(
            dataset,
            name,
            parse_options(command.settings),
            command.seed,
            command.split,
            refit=command.refit,
            device=device,
        )
        reports.append({"env": target.env_id} | report)
    if command.out is not None:
        write_json(command.out, reports)
    note_other_data(dataset)
    if command.json:
        print_json(reports)
    else:
        console().print(_table(reports, f"{dataset.name} ({command.split}, {reports[0]['users']} users)"))
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
