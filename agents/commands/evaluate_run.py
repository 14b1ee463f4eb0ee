"""The work of ``refit evaluate``."""

from __future__ import annotations

from rich.table import Table

from agents.commands.common import choose_target, note_other_data
from agents.commands.evaluate import Evaluate
from agents.console import console, print_json, say
from agents.runs.folder import RunFolder
from agents.training.tensors import resolve_device
from refit_env.checkpoint import weights_digest
from refit_env.data import load_dataset
from refit_env.evaluation.beyond_accuracy import beyond_names, means_of
from refit_env.evaluation.catalogue import catalogue_of
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy


def run(command: Evaluate) -> int:
    """Evaluate and print; returns the exit code."""
    folder = RunFolder.open(command.run_dir)
    target = choose_target(command.env, command.data, fallback=folder.config)
    device = resolve_device(command.device)
    policy = DiffusionPolicy.load(folder.path, device, other_data=command.other_data)
    if not command.other_weights:
        folder.check_weights(weights_digest(policy.backbone.state_dict()))
    dataset = load_dataset(target.dataset)
    result = evaluate(policy.scorer(dataset), dataset, command.split, device=device)
    metrics = means_of(result, dataset, command.split, beyond_names(result))
    note_other_data(dataset)
    if command.json:
        print_json(
            {
                "run": str(folder.path),
                "env": target.env_id,
                "dataset": dataset.name,
                "split": command.split,
                "users": len(result.users),
                "metrics": {name: float(value) for name, value in metrics.items()},
                "features": catalogue_of(dataset).source,
                "metrics_over_all_users": {
                    name: float(value) for name, value in result.means_over_all().items()
                },
            }
        )
        return 0
    title = f"{folder.path} on {dataset.name} ({command.split}, {len(result.users)} users)"
    table = Table("metric", title=title, min_width=48)
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    console().print(table)
    say(f"ild, calibration, rsp: {catalogue_of(dataset).source}")
    return 0
