"""The fine-tuning algorithms by name, one file each; a file is imported when its algorithm is asked for."""

from __future__ import annotations

from importlib import import_module

from agents.config import TrainerConfig
from agents.trainer import FineTuner
from refit_env.errors import unknown_name

ALGORITHMS: dict[str, str] = {
    "distill": "agents.distill:Distill",
    "dpo": "agents.dpo:DPO",
    "es": "agents.es:EvolutionStrategy",
    "grpo": "agents.grpo:GRPO",
    "ppo": "agents.ppo:PPO",
    "reinforce": "agents.reinforce:Reinforce",
    "rwr": "agents.rwr:RewardWeighted",
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
