"""Defaults of ``refit pretrain`` and ``refit finetune`` that depend on the data.

They read the data, so this is imported only where there is work to do. Where the data or the model cannot be
read, there are no such defaults, and the command itself says what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from agents.commands.options import named
from agents.commands.target import choose_target
from agents.runs.files import POLICY_META, RunError
from agents.runs.folder import RunFolder
from agents.training.pretrain_config import PretrainConfig, published_training
from agents.tuning.defaults import Chosen, FineTuning, default_backbone, default_finetuning
from agents.tuning.inspection import inspect_data
from refit_env.data import load_dataset
from refit_env.utils.atomic_io import read_record

TRAINING = tuple(field.name for field in fields(PretrainConfig) if field.name != "select")
OF_A_NETWORK = ("backbone", "backbone_options", "size", "init", "settings", "resume", *TRAINING)
"""Options of ``refit pretrain`` that name a model, or say how a network is trained."""


def backbone_of_data(words: Sequence[str], data: str | None) -> Chosen | None:
    """The backbone of ``refit pretrain --data`` where no option names or describes a network.

    Args:
        words: of the command.
        data: what ``--data`` said.

    Returns:
        The choice and its reason; None where an option decides, or the data cannot be read.
    """
    if data is None or named(words, *OF_A_NETWORK):
        return None
    try:
        return default_backbone(inspect_data(load_dataset(choose_target(None, Path(data)).dataset)))
    except (ValueError, OSError):
        return None


def training_of_model(init: str) -> PretrainConfig | None:
    """How ``refit pretrain --init`` trains without options: as its backbone was, on the model's data set.

    Args:
        init: what ``--init`` said.

    Returns:
        The settings; None where the model cannot be read.
    """
    try:
        return published_training(*model_of(Path(init)))
    except (ValueError, OSError):
        return None


def model_of(run: Path) -> tuple[str, str]:
    """Return the names of the backbone and of the data set of a run's model.

    Raises:
        RunError: if there is no model, or its file is damaged.
    """
    meta = read_record(run / POLICY_META, dict[str, Any], error=RunError)
    return str(meta.get("backbone")), str(meta.get("dataset") or "")


def finetuning_of_data(env: str | None, data: str | None, init: str | None) -> FineTuning | None:
    """How ``refit finetune`` trains where neither reward nor algorithm is named.

    Args:
        env: what ``--env`` said.
        data: what ``--data`` said.
        init: what ``--init`` said.

    Returns:
        The defaults and their reason; None where the data or the model cannot be read.
    """
    try:
        run = RunFolder.open(init or "")
        target = choose_target(env, None if data is None else Path(data), fallback=run.config)
        backbone, _ = model_of(run.path)
        return default_finetuning(inspect_data(load_dataset(target.dataset)), backbone)
    except (ValueError, OSError):
        return None
