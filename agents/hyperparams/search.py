"""What ``benchmarks.search_finetuning`` tries, as data: by environment, ways to pretrain and to fine-tune.

What was tried stays, so that what was chosen can be judged beside it. An entry without a file under
``benchmarks/results/search/`` has not been run; ``exploratory.json`` there holds trials made by hand.
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
    """Settings to start from, see ``agents.algorithms.configs``."""
    starts: tuple[str, ...] = ("published",)
    """The starts that it is tried on."""


@dataclass(frozen=True)
class Grid:
    """What is tried on one environment."""

    starts: Mapping[str, Start]
    variants: Mapping[str, Variant]


_RECENT = {"reward": "ndcg", "relevance": "recent"}
_HOLDOUT = {"reward": "ndcg", "relevance": "holdout"}
_ROWS = {"reward": "log_rank", "relevance": "train"}


def _slope(rate: float, std: float, iterations: int, starts: tuple[str, ...] = ("published",)) -> Variant:
    """The pathwise estimator on rows: one chain of each of 512."""
    agent = {"learning_rate": rate, "exploration_std": std, "iterations": iterations}
    return Variant(agent | {"users_per_batch": 512, "eval_every": 20}, _ROWS, starts=starts)


def _score(rate: float, std: float, iterations: int, starts: tuple[str, ...] = ("published",)) -> Variant:
    """REINFORCE proper on rows: eight chains of each of 256, compared with each other."""
    agent = {"learning_rate": rate, "exploration_std": std, "iterations": iterations}
    agent |= {"users_per_batch": 256, "samples_per_user": 8, "eval_every": 20}
    return Variant(agent, _ROWS, "score", starts)


def _holdout(rate: float, iterations: int, draws: int = 32, start: str = "published") -> Variant:
    """Sets that were split at random: many hold-outs in turns."""
    agent = {"learning_rate": rate, "iterations": iterations, "relevance_draws": draws, "eval_every": 20}
    return Variant(agent, _HOLDOUT, starts=(start,))


GRIDS: dict[str, Grid] = {
    "ReFiT-ML1M-v0": Grid(
        starts={"published": Start({"patience": 5})},
        variants={
            "default": Variant({"iterations": 120, "eval_every": 20}, _RECENT),
            "double-rate": Variant({"iterations": 80, "eval_every": 20, "learning_rate": 1e-4}, _RECENT),
            "half-batch": Variant(
                {"iterations": 120, "eval_every": 20, "learning_rate": 1e-4, "users_per_batch": 64}, _RECENT
            ),
        },
    ),
    "ReFiT-Anime-v0": Grid(
        starts={"published": Start({"patience": 5})},
        variants={"gentle": _holdout(5e-6, 80), "faster": _holdout(2e-5, 80)},
    ),
    "ReFiT-Yelp2018-v0": Grid(
        starts={
            "small": Start(
                {
                    "learning_rate": 1e-3,
                    "users_per_batch": 200,
                    "epochs": 4,
                    "eval_steps": 1,
                    "select_on": "ndcg@20",
                },
                size="small",
            )
        },
        variants={"gentle": _holdout(2e-5, 40, 8, "small"), "faster": _holdout(1e-4, 40, 8, "small")},
    ),
    "ReFiT-YooChoose-v0": Grid(
        starts={
            "published": Start(),
            "ranking": Start({"objective": "ranking", "learning_rate": 1e-3, "patience": 3, "epochs": 12}),
        },
        variants={
            "slope-std1": _slope(2e-3, 1.0, 120),
            "slope-std.3": _slope(2e-3, 0.3, 60),
            "slope-std2": _slope(2e-3, 2.0, 60),
            "score-std.3": _score(1e-4, 0.3, 60),
            "score-fast": _score(1e-3, 0.3, 60),
            "slope-gentle": _slope(1e-5, 0.3, 60, ("ranking",)),
            "slope-wide": _slope(5e-5, 1.0, 60, ("ranking",)),
        },
    ),
    "ReFiT-KuaiRec-v0": Grid(
        starts={
            "published": Start(),
            "ranking": Start({"objective": "ranking", "learning_rate": 1e-3, "patience": 3, "epochs": 12}),
        },
        variants={
            "slope-std.3": _slope(1e-3, 0.3, 120),
            "slope-std1": _slope(2e-3, 1.0, 60),
            "slope-gentle": _slope(1e-5, 0.3, 60, ("ranking",)),
            "slope-wide": _slope(5e-5, 1.0, 60, ("ranking",)),
        },
    ),
    "ReFiT-Zhihu-v0": Grid(
        starts={
            "published": Start({"patience": 6}),
            "lr1e-3": Start({"learning_rate": 1e-3, "patience": 6}),
            "ranking": Start({"objective": "ranking", "learning_rate": 1e-3, "patience": 3, "epochs": 12}),
        },
        variants={
            "slope-std1": _slope(2e-3, 1.0, 120, ("published", "lr1e-3")),
            "slope-gentle": _slope(1e-5, 0.3, 60, ("ranking",)),
            "slope-wide": _slope(5e-5, 1.0, 60, ("ranking",)),
        },
    ),
}
"""By environment id."""
