"""The registry of backbones: diffusion recommenders, one file each.

A file may hold, by data set, the configurations that the authors published (``PUBLISHED``) and smaller ones
that two cores train in minutes (``SMALL``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from refit_env.backbones.base import Backbone, Condition, Context, Look, check_task
from refit_env.backbones.cfdiff import PUBLISHED as CFDIFF_PUBLISHED
from refit_env.backbones.cfdiff import SMALL as CFDIFF_SMALL
from refit_env.backbones.cfdiff import CFDiff
from refit_env.backbones.diffpoi import PUBLISHED as DIFFPOI_PUBLISHED
from refit_env.backbones.diffpoi import SMALL as DIFFPOI_SMALL
from refit_env.backbones.diffpoi import DiffPoi
from refit_env.backbones.diffrec import PUBLISHED as DIFFREC_PUBLISHED
from refit_env.backbones.diffrec import SMALL as DIFFREC_SMALL
from refit_env.backbones.diffrec import DiffRec
from refit_env.backbones.dreamrec import PUBLISHED as DREAMREC_PUBLISHED
from refit_env.backbones.dreamrec import DreamRec
from refit_env.backbones.hdrm import HDRM
from refit_env.backbones.hdrm import PUBLISHED as HDRM_PUBLISHED
from refit_env.backbones.hdrm import SMALL as HDRM_SMALL
from refit_env.backbones.ldiffrec import PUBLISHED as LDIFFREC_PUBLISHED
from refit_env.backbones.ldiffrec import SMALL as LDIFFREC_SMALL
from refit_env.backbones.ldiffrec import LDiffRec
from refit_env.backbones.linear import PUBLISHED as LINEAR_PUBLISHED
from refit_env.backbones.linear import LinearDenoiser
from refit_env.backbones.recdiff import PUBLISHED as RECDIFF_PUBLISHED
from refit_env.backbones.recdiff import RecDiff
from refit_env.backbones.spectral import PUBLISHED as SPECTRAL_PUBLISHED
from refit_env.backbones.spectral import SpectralDenoiser
from refit_env.backbones.tdiffrec import PUBLISHED as TDIFFREC_PUBLISHED
from refit_env.backbones.tdiffrec import TDiffRec
from refit_env.data.dataset import Dataset
from refit_env.errors import unknown_name

__all__ = [
    "Backbone",
    "Condition",
    "Context",
    "Look",
    "backbone_class",
    "backbone_config",
    "backbone_for",
    "backbone_names",
    "check_task",
    "make_backbone",
    "published_config",
    "sized_config",
]

_BACKBONES: dict[str, type[Backbone]] = {
    cls.name: cls
    for cls in (
        CFDiff,
        DiffPoi,
        DiffRec,
        DreamRec,
        HDRM,
        LDiffRec,
        LinearDenoiser,
        RecDiff,
        SpectralDenoiser,
        TDiffRec,
    )
}
_PUBLISHED: dict[str, Mapping[str, Any]] = {
    CFDiff.name: CFDIFF_PUBLISHED,
    DiffPoi.name: DIFFPOI_PUBLISHED,
    DiffRec.name: DIFFREC_PUBLISHED,
    DreamRec.name: DREAMREC_PUBLISHED,
    HDRM.name: HDRM_PUBLISHED,
    LDiffRec.name: LDIFFREC_PUBLISHED,
    LinearDenoiser.name: LINEAR_PUBLISHED,
    RecDiff.name: RECDIFF_PUBLISHED,
    SpectralDenoiser.name: SPECTRAL_PUBLISHED,
    TDiffRec.name: TDIFFREC_PUBLISHED,
}
_SMALL: dict[str, Mapping[str, Any]] = {
    CFDiff.name: CFDIFF_SMALL,
    DiffPoi.name: DIFFPOI_SMALL,
    DiffRec.name: DIFFREC_SMALL,
    HDRM.name: HDRM_SMALL,
    LDiffRec.name: LDIFFREC_SMALL,
}
SIZES = ("published", "small")
"""Names for ``sized_config``."""
_LIKE = {"yelp2018": "yelp", "gowalla": "yelp"}
"""Data sets without a published configuration of their own that take a related one's."""
_DEFAULT = {
    CFDiff.name: "ml-1m",
    DiffPoi.name: "",
    DiffRec.name: "ml-1m",
    DreamRec.name: "yoochoose",
    HDRM.name: "ml-1m",
    LDiffRec.name: "ml-1m",
    LinearDenoiser.name: "",
    RecDiff.name: "ciao",
    SpectralDenoiser.name: "",
    TDiffRec.name: "ml-1m",
}
"""Whose configuration all others take."""


def backbone_names() -> list[str]:
    """The names for ``make_backbone``."""
    return sorted(_BACKBONES)


def backbone_class(name: str) -> type[Backbone]:
    """Return the class of a backbone; a ValueError with a did-you-mean for an unknown name."""
    if name not in _BACKBONES:
        raise unknown_name("backbone", name, _BACKBONES)
    return _BACKBONES[name]


def make_backbone(name: str, num_items: int, config: Mapping[str, Any] | Any | None = None) -> Backbone:
    """Build an untrained backbone.

    Args:
        name: one of ``backbone_names()``.
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
        config = _from_mapping(cls.config_class, config or {})
    if not isinstance(config, cls.config_class):
        raise ValueError(
            f"backbone {name!r} takes a {cls.config_class.__name__}, not a {type(config).__name__}"
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
        dataset: gives the items, and the graphs, clusters and places that some networks are built on.
        name: one of ``backbone_names()``.
        options: fields of its configuration to change.
        size: whose configuration, see ``sized_config``.
        seed: of the initial weights; None draws them from torch's global generator.

    Raises:
        ValueError: for an unknown name, size or field, with a did-you-mean, or data of another task.
    """
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
    """The configuration of a backbone for a data set, with changes.

    Args:
        name: one of ``backbone_names()``.
        dataset: name of the data set.
        options: fields to change.
        size: see ``sized_config``.

    Raises:
        ValueError: for an unknown name, size or field, with a did-you-mean.
    """
    values = {**_plain(sized_config(name, dataset, size)), **(options or {})}
    return _from_mapping(backbone_class(name).config_class, values)


def sized_config(backbone: str, dataset: str, size: str = "published") -> Any:
    """The configuration of a size: ``published``, or ``small`` where the file of the backbone has one.

    Raises:
        ValueError: for an unknown name or size, with a did-you-mean.
    """
    if size not in SIZES:
        raise unknown_name("size", size, SIZES)
    table = _SMALL.get(backbone, {}) if size == "small" else {}
    found = table.get(dataset, table.get(_LIKE.get(dataset, dataset), table.get("")))
    return published_config(backbone, dataset) if found is None else found


def published_config(backbone: str, dataset: str) -> Any:
    """The configuration that the backbone's authors published for a data set.

    A data set that they did not treat takes that of the most similar one (``yelp`` for check-ins and
    reviews with tens of thousands of items, ``ml-1m`` else; DreamRec's is that of ``yoochoose``,
    RecDiff's that of ``ciao``).
    """
    if backbone not in _PUBLISHED:
        raise unknown_name("backbone", backbone, _PUBLISHED)
    table = _PUBLISHED[backbone]
    return table.get(_LIKE.get(dataset, dataset), table[_DEFAULT[backbone]])


def _plain(config: Any) -> dict[str, Any]:
    """A configuration's fields."""
    return {f.name: getattr(config, f.name) for f in fields(config)}


def _from_mapping(cls: type, values: Mapping[str, Any]) -> Any:
    """A configuration from JSON-plain values; lists become tuples."""
    known = [f.name for f in fields(cls)]
    for key in values:
        if key not in known:
            raise unknown_name(f"{cls.__name__} field", key, known)
    return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
