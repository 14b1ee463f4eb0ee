"""Classes and functions in files and modules of a user: ``my_reward.py:FreshHits``, ``package.module:name``.

``object_at`` imports the file, thus runs it; ``source_of`` reads it and runs nothing.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, util
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

from refit_env.errors import did_you_mean
from refit_env.utils.text import visible

SHORT = 12
"""Digits of a hash in messages."""

OF_FILES = "refit_user_"
"""How the names of the modules of files begin."""

OWN = ("refit_env", "agents")
"""Packages of this project, which are no user's though a place may name them."""

_FILES: dict[tuple[Path, str], ModuleType] = {}
"""The module of each file, by its path and the sha256 of its content."""
_MODULES: set[str] = set()
"""Names of the modules of places, and of those beside them that they import."""


class Source(TypedDict):
    """A file of a user, as a run's ``config.json`` records it."""

    file: str
    """Its absolute path."""
    sha256: str
    """Hash of the file's content."""


def is_place(name: str) -> bool:
    """Return whether a name is a place, ``FILE.py:NAME`` or ``package.module:NAME``."""
    return ":" in name


def check_no_file(kind: str, name: str) -> None:
    """Refuse the name of a file without the name of what it holds.

    Raises:
        ValueError: saying what to add.
    """
    if name.endswith(".py"):
        raise ValueError(
            f"{kind} {name!r} is a file: add the name of the class or function in it, {name}:NAME"
        )


def absolute_place(name: str) -> str:
    """Return the place with the absolute path of its file, so that it means the same in another folder.

    Example:
        >>> absolute_place("package.module:Agent"), absolute_place("ppo")
        ('package.module:Agent', 'ppo')
    """
    where, colon, inner = name.rpartition(":")
    return f"{Path(where).resolve()}{colon}{inner}" if colon and where.endswith(".py") else name


def object_at(kind: str, name: str, suitable: Callable[[ModuleType], list[str]], what: str = "class") -> Any:
    """Return the class or function at a place; its file is run where it was not yet.

    Args:
        kind: what messages call it: ``algorithm``, ``reward``.
        name: ``FILE.py:NAME`` or ``package.module:NAME``.
        suitable: the names in a module that could have been meant, for the did-you-mean.
        what: what messages say that the file lacks.

    Raises:
        ValueError: if there is no such file, module or name, or it cannot be imported. The message is one
            line that names what was passed.
    """
    where, inner = _parts(kind, name)
    module = _module(kind, name, where)
    if not hasattr(module, inner):
        hint = did_you_mean(inner, suitable(module))
        raise ValueError(f"{kind} {name!r}: {where} has no {what} {inner!r}.{hint}")
    return getattr(module, inner)


def _parts(kind: str, name: str) -> tuple[str, str]:
    """Return the file or module of a place, and the name in it; raise a ValueError if one is missing."""
    where, _, inner = name.rpartition(":")
    if not where or not inner:
        raise ValueError(f"{kind} {name!r} should read FILE.py:NAME or package.module:NAME")
    return where, inner


def misfit(function: Callable[..., Any], count: int) -> str | None:
    """Return the arguments of a function that cannot be called with so many by place; None if it can.

    Also None for a function of another language, whose arguments are not known.

    Example:
        >>> misfit(lambda scores, users, k: scores, 2), misfit(lambda scores, users, k=5: scores, 2)
        ('(scores, users, k)', None)
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*range(count))
    except TypeError:
        bare = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
        return str(signature.replace(parameters=bare, return_annotation=signature.empty))
    return None


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether a call of a function returns no result, but something to await.

    Example:
        >>> async def own(scores, users): ...
        >>> is_async(own), is_async(max)
        (True, False)
    """
    called = getattr(type(function), "__call__", None)  # noqa: B004  # of an object
    kinds = inspect.iscoroutinefunction, inspect.isasyncgenfunction
    return any(kind(one) for kind in kinds for one in (function, called))


def methods_fault(cls: type, base: type, called: Mapping[str, int]) -> str | None:
    """Return what is wrong with the methods of a user's class, which are called by place; None if nothing is.

    Args:
        cls: the class.
        base: the class that states the arguments of each method.
        called: method -> number of its arguments, self among them. Those that ``cls`` lacks are left out.

    Example:
        >>> class Base:
        ...     def update(self, users): ...
        >>> class Own(Base):
        ...     def update(self): ...
        >>> methods_fault(Own, Base, {"update": 2})
        'update accepts (self), expected (self, users)'
        >>> class Static(Base):
        ...     @staticmethod
        ...     def update(self, users): ...
        >>> methods_fault(Static, Base, {"update": 2})
        'update accepts (self, users), expected (users)'
    """
    for method, count in called.items():
        stated = getattr(base, method)
        own = getattr(cls, method, stated)
        if is_async(own):
            return f"{method} is an async function, expected one without async"
        bound = isinstance(inspect.getattr_static(cls, method, None), staticmethod | classmethod)
        fault = misfit(own, count - bound)
        if fault is not None:
            expected = ", ".join(list(inspect.signature(stated).parameters)[bound:count])
            return f"{method} accepts {fault}, expected ({expected})"
    return None


def classes_in(module: ModuleType, base: type) -> list[str]:
    """Return the names of the subclasses of ``base`` that a module defines, as ``object_at`` needs them."""
    own = [value for value in vars(module).values() if inspect.isclass(value)]
    return [cls.__name__ for cls in own if issubclass(cls, base) and cls.__module__ == module.__name__]


def source_of(kind: str, name: str) -> Source | None:
    """Return the file of a place and the sha256 of its content; nothing is run.

    Args:
        kind: what messages call it.
        name: a name, or a place.

    Returns:
        None for a name that is no place.

    Raises:
        ValueError: if there is no such file or module.
    """
    if not is_place(name):
        return None
    where, _ = _parts(kind, name)
    path = Path(where).resolve() if where.endswith(".py") else _file_of_module(where)
    if path is None or not path.is_file():
        thing = "file" if where.endswith(".py") else "module"
        raise ValueError(f"{kind} {name!r}: there is no {thing} {where}")
    return Source(file=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def places_in(spec: Any) -> list[str]:
    """Return the places among names: one name, a list of them, or a weighted mix of rewards.

    Example:
        >>> places_in({"racs": 1.0, "mine.py:Hits": 0.5}), places_in("racs")
        (['mine.py:Hits'], [])
    """
    names = [spec] if isinstance(spec, str) else list(spec) if isinstance(spec, Mapping | list) else []
    return [name for name in names if isinstance(name, str) and is_place(name)]


def sources_in(kind: str, spec: Any) -> dict[str, Source]:
    """Return the files of the places in a specification, by the absolute place; nothing is run.

    Raises:
        ValueError: as ``source_of``.
    """
    found = {name: source_of(kind, name) for name in places_in(spec)}
    return {absolute_place(name): source for name, source in found.items() if source is not None}


def in_words(source: Source) -> str:
    """Return a file and the first digits of its hash, for messages.

    Example:
        >>> in_words(Source(file="a.py", sha256="0123456789abcdef"))
        'a.py of sha256 0123456789ab'
    """
    return f"{source['file']} of sha256 {source['sha256'][:SHORT]}"


def same_file(one: type, other: type) -> bool:
    """Return whether two classes of one name come from one file: an earlier and a later content of it."""
    files = [getattr(sys.modules.get(cls.__module__), "__file__", None) for cls in (one, other)]
    named_alike = one.__qualname__ == other.__qualname__ and one.__module__ != other.__module__
    return named_alike and files[0] is not None and files[0] == files[1]


def users_line(error: BaseException, *, raised: bool = False) -> str | None:
    """Return ``FILE line N``, the last line of a user's code that led to an error; None if there is none.

    Args:
        error: that was caught.
        raised: only where that line raised the error, thus not where it called a library that did.
    """
    lines = [
        f"{file} line {line}" if _is_users(str(frame.f_globals.get("__name__", ""))) else None
        for frame, line in traceback.walk_tb(error.__traceback__)
        for file in (frame.f_code.co_filename,)
    ]
    found = lines[-1:] if raised else [line for line in lines if line is not None]
    return found[-1] if found else None


def _is_users(module: str) -> bool:
    """Return whether a module is a user's: that of a place, or one beside it."""
    return module.startswith(OF_FILES) or module in _MODULES


def _file_of_module(where: str) -> Path | None:
    """Return the file of a dotted name, in the working folder or on the path; nothing is run."""
    path: list[str] | None = [str(Path.cwd()), *sys.path]
    spec = None
    for part in where.split("."):
        spec = None if path is None else PathFinder.find_spec(part, path)
        if spec is None:
            return None
        found = spec.submodule_search_locations
        path = None if found is None else list(found)
    return None if spec is None or spec.origin is None else Path(spec.origin).resolve()


def _module(kind: str, name: str, where: str) -> ModuleType:
    """Return the module of a file or a dotted name, with its folder (the working folder) on the path."""
    if not where.endswith(".py"):
        with _importable(kind, name, where, Path.cwd()):
            module = import_module(where)
        if module.__name__.partition(".")[0] not in OWN:
            _MODULES.add(module.__name__)
        return module
    path = Path(where).resolve()
    if not path.is_file():
        raise ValueError(f"{kind} {name!r}: there is no file {where}")
    key = path, hashlib.sha256(path.read_bytes()).hexdigest()
    if key not in _FILES:
        spec = util.spec_from_file_location(f"{OF_FILES}{path.stem}_{key[1][:SHORT]}", path)
        assert spec is not None and spec.loader is not None  # a .py file has both
        module = util.module_from_spec(spec)
        with _importable(kind, name, where, path.parent):
            sys.modules[spec.name] = module  # where dataclasses and pickles find their module
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[spec.name]
                raise
        _FILES[key] = module
    return _FILES[key]


@contextmanager
def _importable(kind: str, name: str, where: str, folder: Path) -> Iterator[None]:
    """Within, modules of ``folder`` can be imported; what goes wrong becomes one line.

    Raises:
        ValueError: with the error and, of an error in a file of the folder, its line.
    """
    sys.path.insert(0, str(folder))
    before = set(sys.modules)
    try:
        yield
    except (Exception, SystemExit) as error:
        text = visible(" ".join(str(error).split()))[:300]
        place = _line_in(folder, where, error)
        raise ValueError(
            f"{kind} {name!r}: {where} cannot be imported{place}: {type(error).__name__}: {text}"
        ) from error
    finally:
        sys.path.remove(str(folder))
        _MODULES.update(each for each in set(sys.modules) - before if _is_beside(folder, each))


def _line_in(folder: Path, where: str, error: BaseException) -> str:
    """Return ``, line N`` of the file ``where``, or ``, FILE line N`` of another file of the folder."""
    at = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):  # the file that could not be read is in no frame
        at.append((str(error.filename), error.lineno or 0))
    of_users = [(file, line) for file, line in at if _users_file(folder, file)]
    if not of_users:
        return ""
    file, line = of_users[-1]
    same = where.endswith(".py") and Path(file) == Path(where).resolve()
    return f", line {line}" if same else f", {file} line {line}"


def _is_beside(folder: Path, module: str) -> bool:
    """Return whether a module is a user's file in the folder."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and _users_file(folder, file)


def _users_file(folder: Path, file: str) -> bool:
    """Return whether a file is in the folder, and neither this project's nor installed there."""
    path, here = Path(file), Path(__file__).parents[2]
    own = path.is_relative_to(here) and path.relative_to(here).parts[0] in OWN
    return path.is_relative_to(folder) and "site-packages" not in path.parts and not own
