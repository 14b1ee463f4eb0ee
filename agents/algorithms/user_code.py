"""Algorithms in files and modules of a user: ``my_agent.py:Agent``, ``package.module:Agent``.

The file is imported, thus run.
"""

from __future__ import annotations

import copyreg
import hashlib
import inspect
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import partial
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from agents.training.config import TrainerConfig
from refit_env.errors import did_you_mean
from refit_env.utils.text import visible

if TYPE_CHECKING:
    from agents.training.fine_tuner import FineTuner

_FILES: dict[tuple[Path, str], ModuleType] = {}
"""The module of each file, by its path and the sha256 of its content."""


def is_place(name: str) -> bool:
    """Return whether a name is a place of a class, ``FILE.py:CLASS`` or ``package.module:CLASS``."""
    return ":" in name


def absolute_place(name: str) -> str:
    """Return the place with the absolute path of its file, so that it means the same in another folder.

    Example:
        >>> absolute_place("package.module:Agent"), absolute_place("ppo")
        ('package.module:Agent', 'ppo')
    """
    where, colon, cls = name.rpartition(":")
    return f"{Path(where).resolve()}{colon}{cls}" if colon and where.endswith(".py") else name


def user_class(name: str) -> type[FineTuner]:
    """Return the algorithm at a place; it is a ``FineTuner`` with a name, settings and an ``update``.

    Args:
        name: ``FILE.py:CLASS`` or ``package.module:CLASS``.

    Raises:
        ValueError: if there is no such file, module or class, it cannot be imported, or the class is no
            algorithm. The message is one line that names what was passed.
    """
    where, _, cls = name.rpartition(":")
    module = _module(name, where)
    if not hasattr(module, cls):
        raise _fault(name, f"{where} has no class {cls!r}.{did_you_mean(cls, _algorithms_in(module))}")
    found: type[FineTuner] = getattr(module, cls)
    check_algorithm(found, f"algorithm {name!r}")
    settings = found.config_class
    if settings.__module__ == module.__name__:  # another process cannot import it by that name
        copyreg.pickle(settings, partial(_reduced, absolute_place(name)))
    return found


def source_of(name: str) -> dict[str, str] | None:
    """Return the file of an algorithm at a place and the sha256 of its content, for a run's ``config.json``.

    Returns:
        ``file`` and ``sha256``; None for the name of a registered algorithm.
    """
    if not is_place(name):
        return None
    module = _module(name, name.rpartition(":")[0])
    path = Path(module.__file__ or "")
    return {"file": str(path.resolve()), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


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


def _module(name: str, where: str) -> ModuleType:
    """The module of a file or of a dotted name, imported with its folder (the working folder) on the path."""
    if not where.endswith(".py"):
        with _importable(name, where, Path.cwd()):
            return import_module(where)
    path = Path(where).resolve()
    if not path.is_file():
        raise _fault(name, f"there is no file {where}")
    key = path, hashlib.sha256(path.read_bytes()).hexdigest()
    if key not in _FILES:
        spec = util.spec_from_file_location(f"refit_user_{path.stem}_{key[1][:12]}", path)
        assert spec is not None and spec.loader is not None  # a .py file has both
        module = util.module_from_spec(spec)
        with _importable(name, where, path.parent):
            sys.modules[spec.name] = module  # where dataclasses and pickles find their module
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[spec.name]
                raise
        _FILES[key] = module
    return _FILES[key]


@contextmanager
def _importable(name: str, where: str, folder: Path) -> Iterator[None]:
    """Within, modules of ``folder`` can be imported; what goes wrong becomes one line.

    Raises:
        ValueError: with the error and, of an error in a file, its line.
    """
    sys.path.insert(0, str(folder))
    try:
        yield
    except (Exception, SystemExit) as error:
        line = getattr(error, "lineno", None) or traceback.extract_tb(error.__traceback__)[-1].lineno
        place = f", line {line}" if where.endswith(".py") else ""
        text = visible(" ".join(str(error).split()))[:300]
        raise _fault(name, f"{where} cannot be imported{place}: {type(error).__name__}: {text}") from error
    finally:
        sys.path.remove(str(folder))


def _algorithms_in(module: ModuleType) -> list[str]:
    """Return the names of the algorithms that a module defines."""
    from agents.training.fine_tuner import FineTuner

    own = [value for value in vars(module).values() if inspect.isclass(value)]
    return [c.__name__ for c in own if issubclass(c, FineTuner) and c.__module__ == module.__name__]


def _fault(name: str, text: str) -> ValueError:
    """Return the error for a place."""
    return ValueError(f"algorithm {name!r}: {text}")
