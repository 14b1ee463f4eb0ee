"""The models of an environment and what validation chose for them: one YAML file a data set.

A file maps models to their settings (the fields of ``Model``); the first one is the environment's default.
The entry ``baselines`` holds the settings of baselines by name. No entry was chosen on the test split; what
was tried on validation is in ``benchmarks/results/search.jsonl`` and ``search-by-hand.jsonl`` (``refit
compare search`` tries more).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from agents.hyperparams.yaml_files import check_name, located, mapping, read_yaml, settings
from agents.training.pretrain_config import PretrainConfig, published_training
from refit_env.backbones import backbone_class, backbone_config
from refit_env.errors import DataError, unknown_name
from refit_env.registration import entry
from refit_env.settings import Bounded, OneOf, Steps
from refit_env.utils.text import shown

FOLDER = Path(__file__).resolve().parent
"""The folder of the files."""
BASELINES = "baselines"
"""The entry of a file that holds baselines' settings."""


@dataclass(frozen=True)
class Budget(Bounded):
    """What each fine-tuned variant may take, in place of a number of iterations."""

    steps: Annotated[int, Meta(ge=1, le=10**12)]
    """Environment steps: T of them make one chain, and each is a row through the denoiser."""
    validations: Annotated[int, Meta(ge=1, le=10**6)] = 12
    """Validations within the budget, the start's not counted; the best weights are kept."""


@dataclass(frozen=True)
class Model(Bounded):
    """A recommender of one environment: how it is built and trained, and what its variants change."""

    backbone: str
    """Name in the registry of backbones; the model's own name where a file leaves it out."""
    size: Annotated[str, OneOf(("published", "small"))] = "published"
    """Whose configuration of the backbone."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Changes to that configuration."""
    num_steps: Steps | None = None
    """T of the chain; the environment's if None."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """The training that its variants start from; files state what differs from the published settings."""
    env: Mapping[str, Any] = field(default_factory=dict)
    """What the environment is made with: reward, relevance ..."""
    relevance_draws: Annotated[int, Meta(ge=1, le=10_000)] = 1
    """Random hold-outs that iterations take in turns (relevance ``holdout`` only): many keep an agent from
    overfitting one of them."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Variant of a study -> changes to its settings; ``preset`` names the settings that they change."""
    gpu: bool = False
    """Whether it is too large to be trained on a CPU."""


def make_model(
    name: str, value: Any, where: str, dataset: str, default: str, like: Model | None = None
) -> Model:
    """A model from a file's mapping.

    Args:
        name: of the model.
        value: the mapping.
        where: its place, for messages.
        dataset: whose published settings it starts from.
        default: the backbone of the environment, for a model whose name is no backbone's.
        like: the model that the mapping changes; its backbone stays.

    Raises:
        DataError: for what is wrong in it; the message names the entry.
    """
    check_name(name, where)
    known = [key for key in Model.__dataclass_fields__ if like is None or key != "backbone"]
    found = mapping(value, where, known)
    given = found.pop("backbone", None) or (name if _is_backbone(name) else default)
    if not isinstance(given, str):
        raise DataError(f"{where}, backbone: must be the name of a backbone; found {shown(given)}")
    backbone = given if like is None else like.backbone
    located(f"{where}, backbone", lambda: backbone_class(backbone))
    start = Model(backbone, pretrain=published_training(backbone, dataset)) if like is None else like
    place = f"{where}, pretrain"
    changes = mapping(found.pop("pretrain", None), place, PretrainConfig.__dataclass_fields__)
    training = located(place, lambda: replace(start.pretrain, **changes))
    for part in ("options", "env", "variants"):
        found[part] = {**getattr(start, part), **mapping(found.get(part), f"{where}, {part}")}
    for key, value in found["variants"].items():
        changed = mapping(value, f"{where}, variants, {key}")
        found["variants"][key] = {**start.variants.get(key, {}), **changed}
    found = {key: getattr(start, key) for key in ("size", "num_steps", "relevance_draws", "gpu")} | found
    model = settings(Model, found, where, backbone=backbone, pretrain=training)
    located(f"{where}, options", lambda: backbone_config(backbone, dataset, model.options, size=model.size))
    return model


def models_of(env_id: str) -> dict[str, Model]:
    """The models of an environment, its default first; one that was never searched has its backbone's own.

    Raises:
        ValueError: for an unknown environment, with a did-you-mean.
        DataError: for a file that is wrong.
    """
    row = entry(env_id)
    return dict(_models_in(FOLDER / f"{row.dataset}.yml", row.dataset or "", row.backbone, row.task))


@cache
def _models_in(path: Path, dataset: str, backbone: str, task: str) -> dict[str, Model]:
    entries = read_yaml(path) if path.exists() else {}
    found = {
        name: make_model(name, value, f"{path}: {name}", dataset, backbone)
        for name, value in entries.items()
        if name != BASELINES
    }
    if found:
        return found
    goal = {"reward": "ndcg", "relevance": "recent"} if task in ("cf", "social") else {}
    return {backbone: Model(backbone, pretrain=published_training(backbone, dataset), env=goal)}


def model_of(env_id: str, name: str | None = None) -> Model:
    """The settings of an environment's model; of its default one if None.

    Raises:
        ValueError: for an unknown environment or model, with a did-you-mean.

    Example:
        >>> model_of("ReFiT-ML1M-v0", "cf-diff-published").backbone
        'cf-diff'
    """
    known = models_of(env_id)
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise unknown_name(f"model of {env_id}", name, known)
    return known[name]


def baseline_settings(env_id: str, name: str) -> dict[str, Any]:
    """What validation chose for a baseline on an environment's data; its defaults if empty.

    Raises:
        DataError: for a file that is wrong.
    """
    path = FOLDER / f"{entry(env_id).dataset}.yml"
    return mapping(_baselines_in(path).get(name), f"{path}: {BASELINES}, {name}")


@cache
def _baselines_in(path: Path) -> Mapping[str, Any]:
    chosen = read_yaml(path).get(BASELINES) if path.exists() else None
    return mapping(chosen, f"{path}: {BASELINES}")


def _is_backbone(name: str) -> bool:
    """Whether there is a backbone of that name."""
    try:
        backbone_class(name)
    except (ValueError, DataError):
        return False
    return True
