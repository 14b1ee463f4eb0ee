"""Agents that fine-tune diffusion recommenders.

The algorithms and their settings are here by name and imported when they are first used, so that ``import
agents`` loads nothing heavy.

Example:
    >>> from agents import Reinforce, ReinforceConfig
    >>> Reinforce.name, ReinforceConfig(iterations=5).iterations
    ('reinforce', 5)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.algorithms.configs import (
        DistillConfig,
        DPOConfig,
        ESConfig,
        GRPOConfig,
        PPOConfig,
        ReinforceConfig,
        RWRConfig,
    )
    from agents.algorithms.distillation import Distill
    from agents.algorithms.dpo import DPO
    from agents.algorithms.es import EvolutionStrategy
    from agents.algorithms.grpo import GRPO
    from agents.algorithms.ppo import PPO
    from agents.algorithms.registry import register_algorithm
    from agents.algorithms.reinforce import Reinforce
    from agents.algorithms.rwr import RewardWeighted
    from agents.training.closed_form import fit_closed_form
    from agents.training.config import TrainerConfig
    from agents.training.fine_tuner import FineTuner
    from agents.training.pretrain_config import PretrainConfig
    from agents.training.pretrainer import pretrain

_PLACES = {
    "DPO": "algorithms.dpo",
    "DPOConfig": "algorithms.configs",
    "Distill": "algorithms.distillation",
    "DistillConfig": "algorithms.configs",
    "ESConfig": "algorithms.configs",
    "EvolutionStrategy": "algorithms.es",
    "FineTuner": "training.fine_tuner",
    "GRPO": "algorithms.grpo",
    "GRPOConfig": "algorithms.configs",
    "PPO": "algorithms.ppo",
    "PPOConfig": "algorithms.configs",
    "PretrainConfig": "training.pretrain_config",
    "RWRConfig": "algorithms.configs",
    "Reinforce": "algorithms.reinforce",
    "ReinforceConfig": "algorithms.configs",
    "RewardWeighted": "algorithms.rwr",
    "TrainerConfig": "training.config",
    "fit_closed_form": "training.closed_form",
    "pretrain": "training.pretrainer",
    "register_algorithm": "algorithms.registry",
}
"""Name -> the module that defines it."""

__all__ = [
    "DPO",
    "GRPO",
    "PPO",
    "DPOConfig",
    "Distill",
    "DistillConfig",
    "ESConfig",
    "EvolutionStrategy",
    "FineTuner",
    "GRPOConfig",
    "PPOConfig",
    "PretrainConfig",
    "RWRConfig",
    "Reinforce",
    "ReinforceConfig",
    "RewardWeighted",
    "TrainerConfig",
    "fit_closed_form",
    "pretrain",
    "register_algorithm",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _PLACES:
        return getattr(import_module(f"agents.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
