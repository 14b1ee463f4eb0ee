"""What a cell's process is given: a variant of a model on an environment, one seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.experiments.resolve import Settings
from agents.experiments.spec import Variant
from agents.hyperparams.models import Budget, Model

CHECKPOINTS = "runs"
"""Folder of the checkpoints, within that of a study."""


@dataclass(frozen=True)
class Job:
    """One cell: a variant of a model on an environment, one seed."""

    env_id: str
    """The environment."""
    model_name: str
    """Name among the environment's models; empty for a baseline."""
    model: Model
    """Its settings."""
    variant: Variant
    """How it comes about."""
    seed: int
    """Seed of pretraining, of the users drawn and of the noise."""
    settings: Settings
    """Settings of the variant."""
    env: Mapping[str, Any]
    """What the environment is made with."""
    budget: Budget | None
    """Budget of a fine-tuned variant."""
    split: str
    """What is measured."""
    per_user: tuple[str, ...]
    """Metrics that are kept user by user."""
    records: Path
    """File of the study's records."""
    runs: Path
    """Folder of its checkpoints."""
    keeps: bool
    """Whether others begin from its weights."""
    device: str
    """Device of training and evaluation."""

    def key(self, variant: str = "") -> str:
        """Return the key of this cell's record, or of another variant's of the same model and seed."""
        return cell_key(self.env_id, self.model_name, variant or self.variant.key, self.seed)

    @property
    def checkpoint(self) -> Path:
        """Folder that its policy is saved to."""
        return self.runs / self.key()

    @property
    def parent(self) -> Path:
        """Folder of the policy that it begins from."""
        return self.runs / self.key(self.variant.parent)


def cell_key(env_id: str, model: str, variant: str, seed: int) -> str:
    """Key of a record.

    Example:
        >>> cell_key("ReFiT-ML1M-v0", "diffrec", "reinforce", 0)
        'ReFiT-ML1M-v0_diffrec_reinforce_seed0'
    """
    return "_".join(filter(None, (env_id, model, variant, f"seed{seed}")))
