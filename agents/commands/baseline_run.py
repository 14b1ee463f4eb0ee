"""The work of ``refit baseline``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from agents.baselines import evaluate_baseline, names_for
from agents.baselines.tuning import Trial, TuningConfig, tune_baseline
from agents.commands.baseline import BaselineCommand
from agents.commands.options import parse_options
from agents.commands.target import choose_target, note_other_data
from agents.console import print_json, say
from agents.experiments.tables import TextTable, print_table
from agents.training.tensors import resolve_device
from refit_env.data import Dataset, load_dataset
from refit_env.errors import SettingError, settings_in
from refit_env.evaluation.ranking import selecting_rule
from refit_env.utils.atomic_io import write_json
from refit_env.utils.text import shown


def run(command: BaselineCommand) -> int:
    """Fit, evaluate and print; returns the exit code."""
    target = choose_target(command.env, command.data)
    _check(command)
    dataset = load_dataset(target.dataset)
    if not command.names:
        names = list(names_for(dataset))
        if command.json:
            print_json(names)
        else:
            say("\n".join(names))
        return 0
    device = resolve_device(command.device)
    reports = [{"env": target.env_id} | _measured(command, dataset, name, device) for name in command.names]
    if command.out is not None:
        write_json(command.out, reports)
    note_other_data(dataset)
    if command.json:
        print_json(reports)
    else:
        print_table(
            _table(reports, f"{dataset.name} ({command.split}, {reports[0]['users']} {dataset.unit})")
        )
    return 0


def _check(command: BaselineCommand) -> None:
    """Refuse options that contradict each other.

    Raises:
        ValueError: naming them.
    """
    if command.settings and len(command.names) != 1:
        raise ValueError(f"--settings are those of one baseline; {len(command.names)} are named")
    if command.out is not None and command.out.exists():
        raise ValueError(f"--out {command.out} exists; name another file, or delete it first")
    for option, value in (("trials", command.trials), ("minutes", command.minutes)):
        if value is not None and command.tune is None:
            raise SettingError(option, f"{value} is the budget of a search: pass --tune FOLDER, too")
    if command.tune is not None and command.tune.is_file():
        raise ValueError(f"--tune {command.tune} is a file; a search needs a folder")
    twice = next((name for at, name in enumerate(command.names) if name in command.names[:at]), None)
    if twice is not None:
        raise ValueError(f"baseline {shown(twice)} is named twice; leave one out")


def _measured(command: BaselineCommand, dataset: Dataset, name: str, device: torch.device) -> dict[str, Any]:
    """Fit a baseline, with ``--tune`` after a search, and return its report."""
    settings = parse_options(command.settings, "settings")
    searched: dict[str, Any] = {}
    if command.tune is not None:
        settings, searched = _tuned(command, dataset, name, settings, device)
    try:
        _, report = evaluate_baseline(
            dataset, name, settings, command.seed, command.split, refit=command.refit, device=device
        )
    except SettingError as error:
        raise SettingError("settings", str(error)) if error.setting in settings else error from error
    return report | searched


def _tuned(
    command: BaselineCommand, dataset: Dataset, name: str, fixed: Mapping[str, Any], device: torch.device
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that validation chose beside the fixed ones, and the report's entry about the search."""
    assert command.tune is not None
    usual = TuningConfig()
    config = TuningConfig(command.trials or usual.trials, command.minutes or usual.minutes, seed=command.seed)
    path, metric = command.tune / f"{name}.json", selecting_rule(config.select, dataset).metric

    def report_trial(trial: Trial) -> None:
        """Print a trial's result to the error stream."""
        value = trial.error if trial.value is None else f"{trial.valid[metric]:.4f}"
        say(f"{name} {trial.settings or 'defaults'}: {value}", stderr=True)

    with settings_in("settings", fixed):
        record = tune_baseline(
            dataset,
            name,
            path,
            config,
            fixed=fixed,
            device=device,
            callback=None if command.json else report_trial,
        )
    found = {"file": str(path), "trials": len(record.trials), "minutes": record.minutes}
    return record.best.settings, {"tuning": found | {metric: record.best.valid[metric]}}


def _table(reports: Sequence[dict[str, Any]], title: str) -> TextTable:
    """A row for each baseline, the best NDCG first."""
    metrics = [name for name in reports[0]["metrics"] if name.startswith(("recall@", "ndcg@"))]
    best_first = sorted(reports, key=lambda report: -report["metrics"][metrics[-1]])
    rows = [
        (
            report["baseline"],
            *(f"{report['metrics'][name]:.4f}" for name in metrics),
            f"{report['cost']['fit']['seconds']:.1f}",
        )
        for report in best_first
    ]
    return TextTable(title, ("baseline", *metrics, "seconds"), tuple(rows))
