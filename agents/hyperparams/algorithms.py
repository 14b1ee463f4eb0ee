"""What a comparison runs with, as data: budgets, goals and tuned settings of each environment.

Everything here was chosen on the validation split. A row's settings are its algorithm's defaults, changed by
the environment's ``tuned`` entry for that row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agents.training.pretrain_config import PretrainConfig


@dataclass(frozen=True)
class EnvSettings:
    """What every row of one environment's table shares, and what single rows change."""

    steps: int = 153_600
    """Environment steps that each algorithm may take: T of them make one chain."""
    reward: str = "ndcg"
    """What is rewarded."""
    relevance: str = "recent"
    """What counts as a hit in training."""
    relevance_draws: int = 1
    """Random hold-outs that iterations take in turns (relevance ``holdout`` only)."""
    looks: int = 12
    """Validations within the budget, the pretrained model's not counted; the best weights are kept."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """The training that every row starts from."""
    more_elbo: PretrainConfig = field(
        default_factory=lambda: PretrainConfig(
            learning_rate=1e-4, epochs=10_000, patience=0, select_on="ndcg@20"
        )
    )
    """The same loss gone on with; the work that REINFORCE took is its limit (``agents.runs.work``)."""
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Row -> changes to its default settings, found on the validation split."""

    def env_kwargs(self) -> dict[str, Any]:
        """What the environments of every row are made with."""
        return {"reward": self.reward, "relevance": self.relevance}


DEFAULT = EnvSettings()
"""For environments that are not named below."""

_WIDE = {"exploration_std": 0.1}
"""Credit of single numbers learns from a wider look around than the pathwise slope needs."""
SETTINGS: dict[str, EnvSettings] = {
    "ReFiT-Synthetic-v0": EnvSettings(
        steps=60_000,
        tuned={
            "reinforce": {"learning_rate": 3e-5},
            "ppo": _WIDE,
            "grpo": {"learning_rate": 1e-4},
            "rwr": _WIDE,
            "dpo": _WIDE,
            "es": {"sigma": 0.1, "learning_rate": 0.01},
        },
    ),
    "ReFiT-ML100K-v0": EnvSettings(
        steps=76_800,
        relevance="holdout",
        relevance_draws=32,
        tuned={
            "reinforce": {"learning_rate": 5e-6},
            "ppo": {"learning_rate": 5e-6},
            "rwr": {"learning_rate": 2e-5},
            "dpo": {"learning_rate": 2e-5},
            "es": {"sigma": 0.05, "learning_rate": 0.001},
        },
    ),
    "ReFiT-ML1M-v0": EnvSettings(
        steps=76_800,
        tuned={
            "ppo": {"learning_rate": 5e-5},
            "dpo": {"learning_rate": 1e-4},
            "grpo": {"learning_rate": 4e-5},
            "es": {"users_per_batch": 64, "samples_per_user": 8, "sigma": 0.03, "learning_rate": 0.001},
        },
    ),
}
"""By environment id. Where the split is random, many hold-outs keep an agent from learning one by heart."""


def settings_of(env_id: str) -> EnvSettings:
    """The settings of an environment; the defaults where it has none of its own."""
    return SETTINGS.get(env_id, DEFAULT)
