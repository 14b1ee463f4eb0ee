"""What a study keeps of a model that was trained, whatever trained it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agents.runs.work import Work
from refit_env.evaluation.ranking import ScoreFunction

CURVE = ("valid/ndcg@20", "valid/recall@20")
"""The metrics that learning curves show."""


@dataclass
class Trained:
    """A model whose weights validation chose, and what it took."""

    score: ScoreFunction
    """Users (B,) -> scores (B, I), for ``evaluate``."""
    env_steps: int = 0
    """Environment steps really taken."""
    curve: dict[str, list[float]] = field(default_factory=dict)
    """``steps`` and, by name, the validation metrics there."""
    reward: dict[str, list[float]] = field(default_factory=dict)
    """``steps`` and the ``mean`` training reward there."""
    spread: dict[str, float] = field(default_factory=dict)
    """How the reward varied over episodes of the start (``agents.reward_checks.properties.spread``)."""
    best_steps: float = 0.0
    """Environment steps of the chosen weights; 0 is the untouched pretrained model."""
    share: float = 1.0
    """Position of the weights between the pretrained and the trained ones (``TrainerConfig.blends``)."""
    training_seconds: float = 0.0
    """Wall-clock time, validation not counted."""
    validation_seconds: float = 0.0
    """Wall-clock time of validation."""
    work: Work | None = None
    """Rows through the denoiser, validation not counted; None where it was not counted."""
    budget: Mapping[str, Any] | None = None
    """The budget of a control (``agents.experiments.budgets``); None for other models."""
