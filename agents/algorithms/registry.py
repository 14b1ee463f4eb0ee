"""The fine-tuning algorithms by name, one file each; a file is imported when its algorithm is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from agents.training.config import TrainerConfig
from refit_env.errors import unknown_name

if TYPE_CHECKING:  # it needs PyTorch; the settings of an algorithm do not
    from agents.training.fine_tuner import FineTuner


class Place(NamedTuple):
    """Where an algorithm is defined, as ``module:class``."""

    algorithm: str
    settings: str


ALGORITHMS: dict[str, Place] = {
    "distill": Place("agents.algorithms.distillation:Distill", "agents.algorithms.configs:DistillConfig"),
    "dpo": Place("agents.algorithms.dpo:DPO", "agents.algorithms.configs:DPOConfig"),
    "es": Place("agents.algorithms.es:EvolutionStrategy", "agents.algorithms.configs:ESConfig"),
    "grpo": Place("agents.algorithms.grpo:GRPO", "agents.algorithms.configs:GRPOConfig"),
    "ppo": Place("agents.algorithms.ppo:PPO", "agents.algorithms.configs:PPOConfig"),
    "reinforce": Place("agents.algorithms.reinforce:Reinforce", "agents.algorithms.configs:ReinforceConfig"),
    "rwr": Place("agents.algorithms.rwr:RewardWeighted", "agents.algorithms.configs:RWRConfig"),
}
"""By name."""


def algorithm(name: str) -> type[FineTuner]:
    """The class of an algorithm.

    Raises:
        ValueError: for a name that is not in the table, with a did-you-mean.

    Example:
        >>> algorithm("reinforce").config_class.__name__
        'ReinforceConfig'
    """
    found: type[FineTuner] = _load(_place(name).algorithm)
    return found


def settings_class(name: str) -> type[TrainerConfig]:
    """The class of an algorithm's settings; PyTorch is not imported for it.

    Raises:
        ValueError: for a name that is not in the table, with a did-you-mean.
    """
    found: type[TrainerConfig] = _load(_place(name).settings)
    return found


def presets(name: str) -> dict[str, TrainerConfig]:
    """The named settings of an algorithm; ``default`` is always there.

    Example:
        >>> sorted(presets("ppo"))
        ['ddpo', 'default']
    """
    return {**settings_class(name).presets()}


def _place(name: str) -> Place:
    """Where the algorithm is defined."""
    if name not in ALGORITHMS:
        raise unknown_name("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]


def _load(place: str) -> Any:
    """What a ``module:class`` names."""
    module, _, cls = place.partition(":")
    return getattr(import_module(module), cls)
