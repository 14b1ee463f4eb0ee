"""The work of ``refit serve``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch

from agents.commands.loading import data_of, policy_of
from agents.commands.serve import Serve
from agents.console import say
from agents.runs.folder import RunFolder
from agents.serving.export import need
from agents.serving.ranker import Ranker
from agents.serving.served import Served
from agents.training.tensors import resolve_device
from refit_env.backbones.latest import freeze
from refit_env.data import Dataset
from refit_env.errors import SettingError
from refit_env.policy import DiffusionPolicy

TOKEN = "REFIT_TOKEN"
"""The variable of the token."""


def run(command: Serve) -> int:
    """Load the run and answer requests; returns the exit code."""
    for module in ("fastapi", "prometheus_client", "uvicorn"):
        need(module, "refit serve", "serve")
    from agents.serving.server import is_local, listen, serve, token_in
    from agents.serving.service import Service

    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", command.name):
        raise SettingError("name", f"must be letters, digits and . _ -, found {command.name[:80]!r}")
    token = token_in(command.token_file, TOKEN)
    if not is_local(command.host) and not token:
        raise ValueError(
            f"--host {command.host} answers other machines: pass --token-file FILE, or set {TOKEN}"
        )
    if command.threads:
        torch.set_num_threads(command.threads)
    bound = listen(command.host, command.port)
    with bound:
        service = Service(
            lambda folder: load(replace(command, run_dir=folder)),
            command.run_dir,
            name=command.name,
            limits=command.limits,
            token=token,
            watch=command.watch,
        )
        model = service.model
        what = f"{model.ranker.policy.backbone.name} on {model.dataset.name}"
        serve(service, bound, lambda address: say(f"serving {command.run_dir} ({what}) on {address}"))
    return 0


def load(command: Serve) -> Served:
    """Load a run's model, and the one from which its fine-tuning began, where its folder is still there."""
    folder, dataset = data_of(command)
    policy = policy_of(command, folder, command.device)
    return Served(folder.path, Ranker(policy, dataset), before_of(command, folder, dataset))


def before_of(command: Serve, folder: RunFolder, dataset: Dataset) -> Ranker | None:
    """Return the ranker of the model from which fine-tuning began; None where it cannot be loaded."""
    init = folder.config.get("init")
    if folder.config["command"] != "finetune" or not init:
        return None
    try:
        policy = DiffusionPolicy.load(
            Path(init), resolve_device(command.device), other_data=command.other_data
        )
        return Ranker(freeze(policy), dataset)
    except (ValueError, OSError) as error:
        say(f"the model before fine-tuning is not shown: {error}", stderr=True)
        return None
