"""The content of ``config.json`` and ``metrics.json`` of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from refit_env.data.identity import DataIdentity
from refit_env.utils.user_code import Source

RENAMED = {"select_on": "select"}
"""Settings that files of earlier versions hold under another name."""


def with_present_names(value: Any) -> Any:
    """Return the settings of a file with the names that they have now.

    Example:
        >>> with_present_names({"agent": {"select_on": "recall@20", "iterations": 3}})
        {'agent': {'select': 'recall@20', 'iterations': 3}}
    """
    if not isinstance(value, Mapping):
        return value
    return {RENAMED.get(key, key): with_present_names(part) for key, part in value.items()}


class RunConfig(TypedDict):
    """The content of ``config.json``: the settings of the command."""

    command: str
    """``pretrain``, ``finetune``, ``import``, ``tune`` or ``refit``."""
    env: str
    """Environment id."""
    data: NotRequired[str | None]
    """Folder of one's own data set."""
    dataset: NotRequired[dict[str, Any]]
    """Name, fingerprint and source of the data set (``DataIdentity``)."""
    seed: NotRequired[int]
    """Seed of everything random."""
    init: NotRequired[str | None]
    """Run folder of the model that training began with."""
    run: NotRequired[str]
    """Fitting again: folder of the run whose choices were kept."""
    other_data: NotRequired[bool]
    """Pretraining: whether the model of ``init`` may have been trained on other data."""
    new_data: NotRequired[bool]
    """Whether the model of ``init`` was carried over to other users and items."""
    imported: NotRequired[dict[str, str]]
    """Import: whose code trained the model; path and sha256 of its file."""
    weights: NotRequired[dict[str, str]]
    """sha256 of each model that the run was begun with, by its folder."""
    base: NotRequired[dict[str, Any] | None]
    """Pretraining of ``hybrid``: settings of its closed form, as validation chose them."""
    pretraining: NotRequired[dict[str, float] | None]
    """Fine-tuning: cost of pretraining the model of ``--init``."""
    env_kwargs: NotRequired[dict[str, Any]]
    """Fine-tuning: keywords of the environment."""
    num_steps: NotRequired[int | None]
    """T."""
    eta: NotRequired[float | None]
    """eta of the denoising steps."""
    algorithm: NotRequired[str]
    """Fine-tuning: name of the algorithm, or the place of a user's class."""
    algorithm_file: NotRequired[Source | None]
    """Fine-tuning: path and sha256 of the file of a user's class."""
    reward_files: NotRequired[dict[str, Source]]
    """Fine-tuning and tuning: those of the files of a user's rewards, by their places."""
    preset: NotRequired[str]
    """Fine-tuning: name of the preset."""
    agent: NotRequired[dict[str, Any]]
    """Fine-tuning: settings of the algorithm."""
    backbone: NotRequired[dict[str, Any]]
    """Pretraining: name and options of the network, where they were given."""
    backbone_file: NotRequired[Source | None]
    """Pretraining: path and sha256 of the file of a user's backbone."""
    size: NotRequired[str]
    """Pretraining: the published or a small configuration."""
    pretrain: NotRequired[dict[str, Any]]
    """Pretraining: settings of the training."""
    tune: NotRequired[dict[str, Any]]
    """Tuning: what the study may spend, and what it tries."""
    made_with: NotRequired[dict[str, str]]
    """Versions and machine."""


def data_identity(config: Mapping[str, Any]) -> DataIdentity:
    """Return the identity of the data in a ``config.json``; earlier versions recorded less of it.

    Example:
        >>> data_identity({"dataset": {"name": "shop"}}).fingerprint is None
        True
    """
    known = config.get("dataset") or {}
    name, source = known.get("name") or "", known.get("source") or ""
    return DataIdentity(name, known.get("fingerprint"), source, bool(known.get("validation")))


class RunMetrics(TypedDict, total=False):
    """The content of ``metrics.json``; null where a number was not finite."""

    valid: dict[str, float | None]
    """Pretraining and tuning: validation metrics."""
    test: dict[str, float | None]
    """Pretraining and tuning: test metrics."""
    before: dict[str, float | None]
    """Fine-tuning: test metrics of the model that it began with."""
    after: dict[str, float | None]
    """Fine-tuning: test metrics of the chosen model."""
    users: int
    """Fine-tuning: number of evaluated users, or rows."""
    unit: str
    """Fine-tuning: what ``users`` counts, ``users`` or ``rows``; earlier versions recorded none."""
    relative_gain: dict[str, float | None]
    """Fine-tuning: gain of ``after`` relative to ``before``."""
    paired_bootstrap: dict[str, dict[str, Any]]
    """Fine-tuning: intervals of the difference."""
    training: dict[str, Any]
    """Length of the training, and the choice of the weights."""
    cost: dict[str, dict[str, float]]
    """Seconds and peak memory of each part."""
    chosen: dict[str, Any]
    """Tuning: the trial that validation chose."""
    compared: dict[str, Any]
    """Tuning: its start and the best baseline; fitting again: the former model beside it."""
    weights: str
    """sha256 of the weights that the run ended with."""
