"""The fine-tuning algorithms by name, one file each; a file is imported when its algorithm is asked for."""

from __future__ import annotations

from importlib import import_module

from agents.training.config import TrainerConfig
from agents.training.fine_tuner import FineTuner
from refit_env.errors import unknown_name

ALGORITHMS: dict[str, str] = {
    "distill": "agents.algorithms.distillation:Distill",
    "dpo": "agents.algorithms.dpo:DPO",
    "es": "agents.algorithms.es:EvolutionStrategy",
    "grpo": "agents.algorithms.grpo:GRPO",
    "ppo": "agents.algorithms.ppo:PPO",
    "reinforce": "agents.algorithms.reinforce:Reinforce",
    "rwr": "agents.algorithms.rwr:RewardWeighted",
}
"""Name -> ``module:class``."""


def algorithm(name: str) -> type[FineTuner]:
    """The class of an algorithm.

    Raises:
        ValueError: for a name that is not in the table, with a did-you-mean.

    Example:
        >>> algorithm("reinforce").config_class.__name__
        'ReinforceConfig'
    """
    if name not in ALGORITHMS:
        raise unknown_name("algorithm", name, ALGORITHMS)
    module, _, cls = ALGORITHMS[name].partition(":")
    found: type[FineTuner] = getattr(import_module(module), cls)
    return found


def presets(name: str) -> dict[str, TrainerConfig]:
    """The named settings of an algorithm; ``default`` is always there.

    Example:
        >>> sorted(presets("ppo"))
        ['ddpo', 'default']
    """
    cls = algorithm(name)
    return {"default": cls.config_class(), **cls.presets}
