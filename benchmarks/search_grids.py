"""What ``benchmarks.search_finetuning`` tries, as data: by environment, ways to pretrain and to fine-tune.

A grid is a record too: what was tried stays, so that what was chosen can be judged beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Start:
    """A way to pretrain."""

    training: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the published training settings (``PretrainConfig``)."""
    backbone: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the configuration of the network."""
    size: str = "published"
    """Whose configuration: ``published`` or ``small``."""


@dataclass(frozen=True)
class Variant:
    """A way to fine-tune."""

    agent: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the preset (``ReinforceConfig``)."""
    env: Mapping[str, Any] = field(default_factory=dict)
    """What the environment is made with."""
    preset: str = "default"
    """Settings to start from, see ``agents.reinforce.PRESETS``."""
    starts: tuple[str, ...] = ("published",)
    """The starts that it is tried on."""


@dataclass(frozen=True)
class Grid:
    """What is tried on one environment."""

    starts: Mapping[str, Start]
    variants: Mapping[str, Variant]


_NDCG_RECENT = {"reward": "ndcg", "relevance": "recent"}

GRIDS: dict[str, Grid] = {
    "ReFiT-ML1M-v0": Grid(
        starts={"published": Start()},
        variants={
            "default-200": Variant({"iterations": 200, "eval_every": 20}, _NDCG_RECENT),
        },
    ),
    "ReFiT-YooChoose-v0": Grid(
        starts={"published": Start(), "ranking": Start({"objective": "ranking"})}, variants={}
    ),
    "ReFiT-KuaiRec-v0": Grid(
        starts={"published": Start(), "ranking": Start({"objective": "ranking"})}, variants={}
    ),
    "ReFiT-Zhihu-v0": Grid(
        starts={
            "published": Start(),
            "lr1e-3": Start({"learning_rate": 1e-3}),
            "lr1e-4": Start({"learning_rate": 1e-4}),
            "ranking": Start({"objective": "ranking", "learning_rate": 1e-3}),
        },
        variants={},
    ),
}
"""By environment id."""
