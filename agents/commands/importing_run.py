"""The work of ``refit import``."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

import numpy as np
import torch

from agents.commands.importing import Import
from agents.commands.measures import cost, reported
from agents.commands.options import parse_options
from agents.commands.pretrain_run import metrics_table
from agents.commands.target import choose_target
from agents.console import console, print_json, say
from agents.runs.folder import RunFolder
from agents.runs.profiling import measure
from agents.training.tensors import resolve_device
from refit_env.backbones.importing import import_diffrec
from refit_env.data import Dataset, load_dataset
from refit_env.data.identity import DataIdentity
from refit_env.errors import SettingError
from refit_env.evaluation.ranking import evaluate, evaluated_users, nearest_metric
from refit_env.policy import DiffusionPolicy


def run(command: Import) -> int:
    """Import, evaluate, and write the run folder; returns the exit code."""
    target = choose_target(command.env, command.data)
    options = parse_options(command.backbone_options, "backbone_options")
    dataset, device = load_dataset(target.dataset), resolve_device(command.device)
    evaluated_users(dataset, "test")
    try:
        backbone = import_diffrec(command.file, dataset, options)
    except SettingError as error:
        raise SettingError("backbone_options", str(error)) from error
    eta = 1.0 if command.eta is None else command.eta
    policy = DiffusionPolicy(backbone, command.num_steps, eta=eta).to(device).eval()
    with command.file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    settings = {
        "env": target.env_id,
        "data": target.data,
        "num_steps": command.num_steps,
        "eta": command.eta,
        "backbone": options | {"name": backbone.name},
        "imported": {"from": command.origin, "file": str(command.file.resolve()), "sha256": digest},
        "dataset": asdict(DataIdentity.of(dataset)),
    }
    with RunFolder.create(command.out, "import", settings, overwrite=command.overwrite) as folder:
        policy.save(folder.path, dataset, overwrite=True)
        with measure() as evaluation:
            means = {
                split: evaluate(policy.scorer(dataset), dataset, split, device=device).means()
                for split in ("valid", "test")
            }
        report = {split: reported(values) for split, values in means.items()}
        folder.finish(report | {"cost": cost(evaluation=evaluation)})
        if command.json:
            print_json({"run": str(folder.path), "env": target.env_id, **folder.metrics})
        elif not command.quiet:
            console().print(metrics_table(report, f"{command.file} on {dataset.name}"))
    metric = nearest_metric("ndcg@20", means["valid"])
    floor = _popularity(dataset, metric, device)
    if means["valid"][metric] < floor:
        say(
            f"{command.file}: valid {metric} {means['valid'][metric]:.4f} is below that of the most popular "
            f"items, {floor:.4f}: the items may have other numbers here than in training, or "
            "--backbone-options may be needed for the schedule",
            stderr=True,
        )
    return 0


def _popularity(dataset: Dataset, metric: str, device: torch.device) -> float:
    """The validation metric of the most popular items."""
    counts = np.bincount(dataset.train.items, minlength=dataset.num_items)
    scores = torch.as_tensor(counts, dtype=torch.float32, device=device)  # (I,)
    result = evaluate(lambda users: scores.repeat(len(users), 1), dataset, "valid", device=device)
    return result.means()[metric]
