"""The settings file that a study leaves, and that ``pretrain`` and ``finetune`` take by ``--settings``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from agents.runs.folder import LARGEST, RunError
from refit_env.utils.atomic_io import finite, read_record, write_json


class PretrainPart(TypedDict):
    """How the start is made."""

    backbone: str
    """Its name."""
    backbone_options: dict[str, Any]
    """Fields of its configuration."""
    num_steps: int | None
    """T; the environment's if None."""
    training: dict[str, Any]
    """Fields of ``PretrainConfig``; of closed forms, none."""


class FinetunePart(TypedDict):
    """How it is fine-tuned."""

    reward: str | dict[str, float]
    """A name or a mix."""
    relevance: str
    """What counts as a hit."""
    reward_kwargs: dict[str, Any]
    """Settings of the reward."""
    algorithm: str
    """Which one."""
    agent: dict[str, Any]
    """Fields of its settings."""


class BaselinePart(TypedDict):
    """The best baseline."""

    name: str
    """Which one."""
    settings: dict[str, Any]
    """Fields of its settings."""


class SettingsFile(TypedDict):
    """What the file holds."""

    dataset: dict[str, Any]
    """Name, fingerprint and source of the data that the settings were chosen on."""
    pretrain: PretrainPart
    """Of the best start, or of the one that was fine-tuned best."""
    finetune: FinetunePart | None
    """None where no fine-tuning was better on validation than the start."""
    baseline: BaselinePart | None
    """None where none was tried."""


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write the file, whole or not at all."""
    write_json(path, finite(settings))


def read_settings(path: Path) -> SettingsFile:
    """Read the file.

    Raises:
        RunError: if there is none, or it is no such file; the message names it and the field.
    """
    return read_record(path, SettingsFile, error=RunError, limit=LARGEST)
