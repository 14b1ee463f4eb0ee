"""The settings of a variant: those of its class, changed by the study and by what was tuned for the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from agents.algorithms.registry import presets
from agents.baselines import baseline
from agents.baselines.base import BaselineConfig, make_config
from agents.experiments.spec import (
    BASELINE,
    CONTINUE,
    FINETUNE,
    PRETRAIN,
    RANKING,
    REWARD_MODEL,
    SAME_INFORMATION,
    SB3,
    Place,
    Variant,
)
from agents.hyperparams.models import Model
from agents.hyperparams.sb3 import SB3Settings, sb3_settings
from agents.training.config import TrainerConfig, named_settings
from agents.training.pretrain_config import TARGETS, PretrainConfig
from refit_env.errors import unknown_name

Settings = PretrainConfig | TrainerConfig | SB3Settings | BaselineConfig | None
"""Settings of a variant; a reward model has none."""
Config = TypeVar("Config", PretrainConfig, TrainerConfig, SB3Settings)


def settings_of(variant: Variant, model: Model, place: Place) -> Settings:
    """A variant's settings for a model.

    Args:
        variant: of the study.
        model: that it is made of.
        place: its environment's variants.

    Raises:
        ValueError: for a setting that the variant has not, with a did-you-mean, or one out of its bounds.
    """
    changes = {**variant.settings, **model.variants.get(variant.key, {})}
    if variant.make == PRETRAIN:
        return changed(model.pretrain, changes, variant.key)
    if variant.make == CONTINUE:
        return changed(_further(variant, model), changes, variant.key)
    if variant.make == FINETUNE:
        named = changes.pop("preset", variant.preset)
        start = replace(
            named_settings(presets(variant.algorithm), named), relevance_draws=model.relevance_draws
        )
        if variant.settings_of:
            start = _shared(start, settings_of(place.variant(variant.settings_of), model, place))
        return changed(start, changes, variant.key)
    if variant.make == SB3:
        known = sb3_settings()
        if variant.algorithm not in known:
            raise unknown_name("Stable-Baselines3 algorithm", variant.algorithm, known)
        return changed(known[variant.algorithm], changes, variant.key)
    if variant.make == BASELINE:
        return make_config(baseline(variant.algorithm).config_class, variant.algorithm, changes)
    assert variant.make == REWARD_MODEL
    return None


def env_of(variant: Variant, model: Model) -> dict[str, Any]:
    """What the environment of a variant is made with: the model's, changed by the variant."""
    merged = {**model.env, **variant.env}
    return {name: value for name, value in merged.items() if value != {}}


def changed(config: Config, changes: Mapping[str, Any], key: str) -> Config:
    """Settings with changes.

    Raises:
        ValueError: for a setting that there is not, with a did-you-mean, or one out of its bounds.

    Example:
        >>> changed(PretrainConfig(), {"epochs": 3}, "pretrained").epochs
        3
    """
    known = [field.name for field in fields(config)]
    for name in changes:
        if name not in known:
            raise unknown_name(f"setting of {key}", name, known)
    return replace(config, **changes)


def _further(variant: Variant, model: Model) -> PretrainConfig:
    """The model's training towards the variant's target."""
    relevance = env_of(variant, model).get("relevance", "train")
    if variant.target == RANKING:
        hidden = relevance if relevance in TARGETS else "train"
        return replace(model.pretrain, objective="ranking", target=hidden)
    target = relevance if variant.target == SAME_INFORMATION else variant.target
    return replace(model.pretrain, target=target)


def _shared(start: TrainerConfig, other: Settings) -> TrainerConfig:
    """Settings with those of another variant, where both have them."""
    if not isinstance(other, TrainerConfig):
        return start
    both = {field.name for field in fields(start)} & {field.name for field in fields(other)}
    return replace(start, **{name: getattr(other, name) for name in both})
