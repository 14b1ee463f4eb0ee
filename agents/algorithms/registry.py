"""The fine-tuning algorithms by name, one file each; a file is imported when its algorithm is used."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from agents.algorithms.user_code import check_algorithm, user_class
from agents.training.config import TrainerConfig
from refit_env.errors import unknown_name
from refit_env.utils.user_code import check_no_file, is_place, same_file

if TYPE_CHECKING:  # it needs PyTorch; the settings of an algorithm do not
    from agents.training.fine_tuner import FineTuner


class Place(NamedTuple):
    """The module and class that define an algorithm, and those of its settings."""

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
"""Name -> place of the algorithms of this package."""


_REGISTERED: dict[str, type[FineTuner]] = {}
"""What ``register_algorithm`` added, by name."""

AlgorithmClass = TypeVar("AlgorithmClass", bound="type[FineTuner]")


def register_algorithm(name: str) -> Callable[[AlgorithmClass], AlgorithmClass]:
    """Register a ``FineTuner`` subclass under a name, as a class decorator.

    The name then works wherever an algorithm is named in this process; ``refit finetune --algorithm`` needs
    the class's place, ``my_agent.py:Agent``::

        @register_algorithm("my-agent")
        class Agent(FineTuner): ...

    Args:
        name: of the algorithm; the class's ``name`` is set to it.

    Raises:
        ValueError: if the name is taken or holds a colon, or the class is no algorithm. A later content of
            the same file may take its name again.
    """
    if is_place(name):
        raise ValueError(f"algorithm {name!r}: a name cannot hold ':', which separates a file and a class")

    def add(cls: AlgorithmClass) -> AlgorithmClass:
        if name in algorithm_names() and not (name in _REGISTERED and same_file(_REGISTERED[name], cls)):
            raise ValueError(f"algorithm {name!r} is registered already ({algorithm(name).__name__})")
        check_algorithm(cls, f"algorithm {name!r}", needs_name=False)
        cls.name = name
        _REGISTERED[name] = cls
        return cls

    return add


def algorithm_names() -> list[str]:
    """Return the names of the algorithms, registered ones included.

    Example:
        >>> "reinforce" in algorithm_names()
        True
    """
    return sorted({*ALGORITHMS, *_REGISTERED})


def algorithm(name: str) -> type[FineTuner]:
    """Return the class of an algorithm.

    Args:
        name: one of ``algorithm_names()``, or the place of a class of one's own: ``my_agent.py:Agent``,
            ``package.module:Agent``.

    Raises:
        ValueError: for another name, with a did-you-mean; for a place without an algorithm.

    Example:
        >>> algorithm("reinforce").config_class.__name__
        'ReinforceConfig'
    """
    if is_place(name):
        return user_class(name)
    if name in _REGISTERED:
        return _REGISTERED[name]
    found: type[FineTuner] = _load(_place(name).algorithm)
    return found


def settings_class(name: str) -> type[TrainerConfig]:
    """Return the class of an algorithm's settings; for those of this package PyTorch is not imported.

    Raises:
        ValueError: as ``algorithm``.
    """
    if is_place(name) or name in _REGISTERED:
        return algorithm(name).config_class
    found: type[TrainerConfig] = _load(_place(name).settings)
    return found


def presets(name: str) -> dict[str, TrainerConfig]:
    """Return the named settings of an algorithm; ``default`` is always there.

    Example:
        >>> sorted(presets("ppo"))
        ['ddpo', 'default']
    """
    return {**settings_class(name).presets()}


def _place(name: str) -> Place:
    """Return the place that defines an algorithm."""
    if name not in ALGORITHMS:
        check_no_file("algorithm", name)
        raise unknown_name("algorithm", name, algorithm_names())
    return ALGORITHMS[name]


def _load(place: str) -> Any:
    """What a ``module:class`` names."""
    module, _, cls = place.partition(":")
    return getattr(import_module(module), cls)
