"""Algorithms in files and modules of a user: ``my_agent.py:Agent``, ``package.module:Agent``."""

from __future__ import annotations

import copyreg
import inspect
from dataclasses import fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from agents.training.config import TrainerConfig
from refit_env.utils.user_code import OF_FILES, absolute_place, classes_in, methods_fault, object_at

if TYPE_CHECKING:
    from agents.training.fine_tuner import FineTuner


def user_class(name: str) -> type[FineTuner]:
    """Return the algorithm at a place; it is a ``FineTuner`` with a name, settings and an ``update``.

    Args:
        name: ``FILE.py:CLASS`` or ``package.module:CLASS``.

    Raises:
        ValueError: if there is no such file, module or class, it cannot be imported, or the class is no
            algorithm. The message is one line that names what was passed.
    """
    from agents.training.fine_tuner import FineTuner  # it needs PyTorch

    found: type[FineTuner] = object_at("algorithm", name, partial(classes_in, base=FineTuner))
    check_algorithm(found, f"algorithm {name!r}")
    settings = found.config_class
    if settings.__module__.startswith(OF_FILES):  # another process cannot import it by that name
        copyreg.pickle(settings, partial(_reduced, absolute_place(name)))
    return found


def check_algorithm(cls: Any, what: str, *, needs_name: bool = True) -> None:
    """Refuse what is no fine-tuning algorithm.

    Args:
        cls: the class.
        what: how the message calls it.
        needs_name: whether the class must have a name already.

    Raises:
        ValueError: saying what is missing.
    """
    from agents.training.fine_tuner import FineTuner  # it needs PyTorch

    if not (inspect.isclass(cls) and issubclass(cls, FineTuner)):
        raise ValueError(f"{what} must be a subclass of agents.training.fine_tuner.FineTuner, found {cls!r}")
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        raise ValueError(f"{what}: class {cls.__name__} must define {', '.join(missing)}")
    if needs_name and not isinstance(getattr(cls, "name", None), str):
        raise ValueError(f"{what}: class {cls.__name__} must have a name, a text: name = 'my-agent'")
    fault = methods_fault(cls, FineTuner, {"update": 2})
    if fault is not None:
        raise ValueError(f"{what}: {fault}")
    settings: Any = cls.config_class
    if not (inspect.isclass(settings) and issubclass(settings, TrainerConfig) and is_dataclass(settings)):
        raise ValueError(
            f"{what}: config_class must be a dataclass that is derived from "
            f"agents.training.config.TrainerConfig, found {settings!r}"
        )


def _reduced(place: str, settings: TrainerConfig) -> tuple[Any, ...]:
    """Return how settings of the algorithm at a place are pickled: as its place and their values."""
    return _settings, (place, {f.name: getattr(settings, f.name) for f in fields(settings)})


def _settings(place: str, values: dict[str, Any]) -> TrainerConfig:
    """Return settings of the algorithm at a place."""
    return user_class(place).config_class(**values)
