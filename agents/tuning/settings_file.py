"""The settings file of a study, which ``pretrain`` and ``finetune`` accept by ``--settings``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from agents.runs.contents import with_present_names
from agents.runs.files import LARGEST, RunError
from refit_env.utils.atomic_io import finite, read_record, write_json

if TYPE_CHECKING:
    from refit_env.data import Dataset


class PretrainPart(TypedDict):
    """Settings of the start."""

    backbone: str
    """Its name."""
    backbone_options: dict[str, Any]
    """Fields of its configuration."""
    num_steps: int | None
    """T; None uses the environment's."""
    training: dict[str, Any]
    """Fields of ``PretrainConfig``; empty for closed forms."""


class FinetunePart(TypedDict):
    """Settings of the fine-tuning."""

    reward: str | dict[str, float | str]
    """Reward, a name or a mix."""
    relevance: str
    """Relevance mode."""
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
    """The content of the file."""

    dataset: dict[str, Any]
    """Name, fingerprint and source of the data that the settings were chosen on."""
    pretrain: PretrainPart
    """The best start, or the start of the best fine-tuning."""
    finetune: FinetunePart | None
    """None if no fine-tuning was better on validation than the start."""
    baseline: BaselinePart | None
    """None if none was tried."""


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write the file atomically."""
    write_json(path, finite(settings))


def read_settings(path: Path) -> SettingsFile:
    """Read the file.

    Raises:
        RunError: if the file is missing or invalid; the message names it and the field.
    """
    found: SettingsFile = with_present_names(read_record(path, SettingsFile, error=RunError, limit=LARGEST))
    return found


def chosen_elsewhere(path: Path, dataset: Dataset) -> str | None:
    """Return a note where the settings of a file were chosen on another data set, else None."""
    known = read_settings(path)["dataset"]
    if known.get("fingerprint") in (None, dataset.fingerprint):
        return None
    return f"{path}: chosen on the data set {known.get('name')!r}; this one is {dataset.name!r}"
