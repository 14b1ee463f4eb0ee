"""The registry of backbones: names to classes and their configurations by data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

import torch

from refit_env.backbones import (
    causal_dreamrec,
    cfdiff,
    diffpoi,
    diffrec,
    dreamrec,
    hdrm,
    hybrid,
    ldiffrec,
    linear,
    recdiff,
    spectral,
    stacked,
    tdiffrec,
)
from refit_env.backbones.base import Backbone
from refit_env.backbones.user_code import backbone_fault, user_backbone
from refit_env.data.dataset import Dataset
from refit_env.errors import did_you_mean, unknown_name, unknown_setting
from refit_env.settings import check_kind
from refit_env.utils.user_code import check_no_file, is_place, same_file

SIZES = ("published", "small")
"""Names for ``sized_config``."""
_LIKE = {"yelp2018": "yelp", "gowalla": "yelp"}
"""Data sets without a published configuration -> related data sets, whose configurations they use."""

BackboneClass = TypeVar("BackboneClass", bound=type[Backbone])


@dataclass(frozen=True)
class Registered:
    """A backbone of the registry.

    Attributes:
        cls: its class.
        published: data set -> the configuration that its authors published.
        default: the data set whose configuration all others use.
        small: data set -> a configuration that trains in minutes on two cores; the key "" is any data set.
    """

    cls: type[Backbone]
    published: Mapping[str, Any]
    default: str = ""
    small: Mapping[str, Any] = field(default_factory=dict)


_BACKBONES: dict[str, Registered] = {
    one.cls.name: one
    for one in (
        Registered(causal_dreamrec.CausalDreamRec, causal_dreamrec.PUBLISHED),
        Registered(cfdiff.CFDiff, cfdiff.PUBLISHED, "ml-1m", cfdiff.SMALL),
        Registered(diffpoi.DiffPoi, diffpoi.PUBLISHED, "", diffpoi.SMALL),
        Registered(diffrec.DiffRec, diffrec.PUBLISHED, "ml-1m", diffrec.SMALL),
        Registered(dreamrec.DreamRec, dreamrec.PUBLISHED, "yoochoose"),
        Registered(hdrm.HDRM, hdrm.PUBLISHED, "ml-1m", hdrm.SMALL),
        Registered(hybrid.HybridDenoiser, hybrid.PUBLISHED),
        Registered(ldiffrec.LDiffRec, ldiffrec.PUBLISHED, "ml-1m", ldiffrec.SMALL),
        Registered(linear.LinearDenoiser, linear.PUBLISHED),
        Registered(recdiff.RecDiff, recdiff.PUBLISHED, "ciao"),
        Registered(spectral.SpectralDenoiser, spectral.PUBLISHED),
        Registered(stacked.StackedDenoiser, stacked.PUBLISHED),
        Registered(tdiffrec.TDiffRec, tdiffrec.PUBLISHED, "ml-1m"),
    )
}


def register_backbone(name: str) -> Callable[[BackboneClass], BackboneClass]:
    """Register a ``Backbone`` subclass under a name, as a class decorator, which sets the class's ``name``.

    Its constructor accepts the number of items and a configuration. ``config_class`` is a dataclass whose
    fields all have defaults, and whose method ``diffusion()`` returns the training chain. A program that
    loads a saved model must import the module that registers its backbone; the place of the class,
    ``my_backbone.py:Tiny``, is a name that works everywhere::

        @register_backbone("tiny")
        class Tiny(Backbone):
            config_class = TinyConfig

    Raises:
        ValueError: if the name is taken or holds a colon. A later content of the same file may take it again.
        TypeError: if the class is not a ``Backbone``, or its ``config_class`` is not such a dataclass.
    """
    if is_place(name):
        raise ValueError(f"backbone {name!r}: a name cannot hold ':', which separates a file and a class")

    def add(cls: BackboneClass) -> BackboneClass:
        fault = backbone_fault(cls)
        if fault is not None:
            raise TypeError(f"backbone {name!r} {fault}")
        if name in _BACKBONES and not same_file(_BACKBONES[name].cls, cls):
            raise ValueError(f"backbone {name!r} is registered already ({_BACKBONES[name].cls.__name__})")
        cls.name = name
        _BACKBONES[name] = Registered(cls, {"": cls.config_class()})
        return cls

    return add


def backbone_names() -> list[str]:
    """Return the names for ``make_backbone``."""
    return sorted(_BACKBONES)


def backbone_class(name: str) -> type[Backbone]:
    """Return the class of a backbone.

    Args:
        name: one of ``backbone_names()``, or the place of a class of one's own: ``my_backbone.py:Tiny``,
            ``package.module:Tiny``.

    Raises:
        ValueError: for an unknown name, with a did-you-mean; for a place without a backbone.
    """
    return _entry(name).cls


def _entry(name: str) -> Registered:
    """Return the entry of a name or a place; raise a ValueError for an unknown one."""
    if is_place(name):
        cls = user_backbone(name)
        return Registered(cls, {"": cls.config_class()})
    if name not in _BACKBONES:
        check_no_file("backbone", name)
        raise unknown_name("backbone", name, _BACKBONES)
    return _BACKBONES[name]


def unregistered(name: object) -> str | None:
    """Return what is wrong with a name in a file, and what to do; None if it is registered."""
    if name in _BACKBONES:
        return None
    hint = did_you_mean(name, _BACKBONES)
    return (
        f"no backbone {str(name)[:80]!r} is registered.{hint} Import the module that registers it "
        "(refit_env.backbones.register_backbone)"
    )


def make_backbone(name: str, num_items: int, config: Mapping[str, Any] | Any | None = None) -> Backbone:
    """Build an untrained backbone.

    Args:
        name: one of ``backbone_names()``, or a place.
        num_items: I.
        config: its configuration, as its dataclass or a mapping of the fields to change; None for defaults.

    Raises:
        ValueError: for an unknown name or field, with a did-you-mean.

    Example:
        >>> make_backbone("diffrec", 50, {"hidden": (8,), "num_steps": 5}).dim
        50
    """
    cls = backbone_class(name)
    if not is_dataclass(config):
        config = _from_mapping(name, cls.config_class, config or {})
    if not isinstance(config, cls.config_class):
        raise ValueError(
            f"backbone {name!r} needs a {cls.config_class.__name__}, not a {type(config).__name__}"
        )
    return cls(num_items, config)


def backbone_for(
    dataset: Dataset,
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    size: str = "published",
    seed: int | None = None,
) -> Backbone:
    """Build an untrained backbone for a data set.

    Args:
        dataset: source of the items, and of the graphs, clusters and places that some networks use.
        name: one of ``backbone_names()``, or a place.
        options: fields of its configuration to change.
        size: size of the configuration, see ``sized_config``.
        seed: seed of the initial weights; None uses torch's global generator.

    Raises:
        ValueError: for an unknown name, size or field, with a did-you-mean, or a data set of another task.
    """
    check_kind("dataset", dataset, Dataset)
    cls = backbone_class(name)
    config = backbone_config(name, dataset.name, options, size=size)
    if seed is None:
        return cls.for_dataset(dataset, config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return cls.for_dataset(dataset, config)


def backbone_config(
    name: str, dataset: str, options: Mapping[str, Any] | None = None, *, size: str = "published"
) -> Any:
    """Return the configuration of a backbone for a data set, with changes.

    Args:
        name: one of ``backbone_names()``, or a place.
        dataset: name of the data set.
        options: fields to change.
        size: see ``sized_config``.

    Raises:
        ValueError: for an unknown name, size or field, with a did-you-mean.
    """
    values = {**_plain(sized_config(name, dataset, size)), **(options or {})}
    return _from_mapping(name, backbone_class(name).config_class, values)


def sized_config(backbone: str, dataset: str, size: str = "published") -> Any:
    """Return the configuration of a size: ``published``, or ``small`` where the backbone has one.

    Raises:
        ValueError: for an unknown name or size, with a did-you-mean.
    """
    if size not in SIZES:
        raise unknown_name("size", size, SIZES)
    table = _entry(backbone).small if size == "small" else {}
    found = table.get(dataset, table.get(_LIKE.get(dataset, dataset), table.get("")))
    return published_config(backbone, dataset) if found is None else found


def published_config(backbone: str, dataset: str) -> Any:
    """Return the configuration that the backbone's authors published for a data set.

    A data set without one uses that of the most similar data set: ``yelp`` for check-ins and reviews with
    tens of thousands of items, else the backbone's default (``yoochoose`` for DreamRec, ``ciao`` for RecDiff,
    ``ml-1m`` for most others).
    """
    known = _entry(backbone)
    return known.published.get(_LIKE.get(dataset, dataset), known.published[known.default])


def _plain(config: Any) -> dict[str, Any]:
    """Return a configuration's fields."""
    return {f.name: getattr(config, f.name) for f in fields(config)}


def _from_mapping(name: str, cls: type, values: Mapping[str, Any]) -> Any:
    """Build the configuration of a backbone from JSON-plain values; lists become tuples."""
    known = [f.name for f in fields(cls)]
    for key in values:
        if key not in known:
            raise unknown_setting(key, f"backbone {name!r}", known)
    return cls(**{field: tuple(v) if isinstance(v, list) else v for field, v in values.items()})
