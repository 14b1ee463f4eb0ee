"""The content of ``config.json`` and ``metrics.json`` of a run folder."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class RunConfig(TypedDict):
    """What ``config.json`` holds: the settings of the command that the run is of."""

    command: str
    """``pretrain``, ``finetune`` or ``tune``."""
    env: str
    """Environment id."""
    data: NotRequired[str | None]
    """Folder of one's own data set."""
    dataset: NotRequired[dict[str, str | None]]
    """Name, fingerprint and source of the data set (``DataIdentity``)."""
    seed: NotRequired[int]
    """Of everything random."""
    init: NotRequired[str | None]
    """Run folder of the model that training began with."""
    weights: NotRequired[dict[str, str]]
    """sha256 of each model that the run was begun with, by its folder."""
    pretraining: NotRequired[dict[str, float] | None]
    """Fine-tuning: what the model that it began with cost."""
    env_kwargs: NotRequired[dict[str, Any]]
    """Fine-tuning: what the environment is made with."""
    num_steps: NotRequired[int | None]
    """T."""
    eta: NotRequired[float | None]
    """Of the steps back."""
    algorithm: NotRequired[str]
    """Fine-tuning: its name, or the place of a user's class."""
    algorithm_file: NotRequired[dict[str, str] | None]
    """Fine-tuning: path and sha256 of the file of a user's class."""
    preset: NotRequired[str]
    """Fine-tuning: the named settings."""
    agent: NotRequired[dict[str, Any]]
    """Fine-tuning: its settings."""
    backbone: NotRequired[dict[str, Any]]
    """Pretraining: name and options of the network, where they were given."""
    size: NotRequired[str]
    """Pretraining: whose configuration."""
    pretrain: NotRequired[dict[str, Any]]
    """Pretraining: its settings."""
    tune: NotRequired[dict[str, Any]]
    """Tuning: what the study may spend, and what it tries."""
    made_with: NotRequired[dict[str, str]]
    """Versions and machine."""


class RunMetrics(TypedDict, total=False):
    """What ``metrics.json`` holds; null where a number was not finite."""

    valid: dict[str, float | None]
    """Pretraining and tuning: validation metrics."""
    test: dict[str, float | None]
    """Pretraining and tuning: test metrics."""
    before: dict[str, float | None]
    """Fine-tuning: test metrics of the model that it began with."""
    after: dict[str, float | None]
    """Fine-tuning: test metrics of the chosen model."""
    users: int
    """Fine-tuning: who was evaluated."""
    relative_gain: dict[str, float | None]
    """Fine-tuning: of ``after`` over ``before``."""
    paired_bootstrap: dict[str, dict[str, Any]]
    """Fine-tuning: intervals of the difference."""
    training: dict[str, Any]
    """How long, and what was chosen by what."""
    cost: dict[str, dict[str, float]]
    """Seconds and peak memory of each part."""
    weights: str
    """sha256 of the weights that the run ended with."""
