"""Reads YAML files and makes settings of them; what is wrong is one line that names file and entry."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from refit_env.errors import DataError, unknown_name
from refit_env.utils.text import shown

Made = TypeVar("Made")
LARGEST = 2**20
"""Bytes of the largest file that is read."""
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}", re.ASCII)
_FLOAT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
"""Numbers as YAML 1.2 has them; YAML 1.1 reads ``1e-4`` as a text."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        DataError: if the file is missing, too large, no YAML, no mapping, or names an entry twice.
    """
    import yaml

    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, expected a YAML file") from None
    if len(content) > LARGEST:
        raise DataError(f"{path}: {len(content)} bytes; a file of this kind has at most {LARGEST}")
    try:
        found = yaml.load(content, _loader())
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise DataError(f"{path}{line}: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path}: not a YAML file ({str(error).splitlines()[0]})") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply") from None
    return mapping(found, str(path))


@cache
def _loader() -> Any:
    """PyYAML's safe loader with numbers of YAML 1.2, and without repeated entries."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
        """Reads plain values."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            """A mapping, each entry once."""
            names: list[Any] = []
            for key, _ in node.value:
                if key.tag == "tag:yaml.org,2002:merge":
                    continue
                name = self.construct_object(key, deep=True)
                if name in names:
                    problem = f"{shown(name)} is repeated in one mapping"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                names.append(name)
            made: dict[Any, Any] = super().construct_mapping(node, deep)
            return made

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    return Loader


def mapping(value: Any, where: str, known: Iterable[str] | None = None) -> dict[str, Any]:
    """A value that must be a mapping from names; None is an empty one.

    Args:
        value: what the file holds.
        where: its place, for the message.
        known: the names that it may have; any if None.

    Raises:
        DataError: if it is another value, or has another name.
    """
    value = {} if value is None else value
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: must be a mapping (name: value), found {shown(value)}")
    names = None if known is None else list(known)
    for name in value:
        if not isinstance(name, str):
            raise DataError(f"{where}: names must be texts, found {shown(name)}")
        if names is not None and name not in names:
            raise DataError(f"{where}: {unknown_name('setting', name, names)}")
    return dict(value)


def check_name(name: str, where: str) -> None:
    """Refuse a name that no file can be called by.

    Raises:
        DataError: if it has other characters than letters, digits and ``. _ + -``, or none.
    """
    if not _NAME.fullmatch(name):
        raise DataError(f"{where}: a name has letters, digits and . _ + - alone, found {shown(name)}")


def listed(value: Any, where: str) -> list[Any]:
    """A value that must be a list.

    Raises:
        DataError: if it is another value.
    """
    if not isinstance(value, list):
        raise DataError(f"{where}: must be a list, found {shown(value)}")
    return list(value)


def located(where: str, make: Callable[[], Made]) -> Made:
    """What a function makes of a file's entry; its errors name the entry.

    Raises:
        DataError: in place of the function's ``ValueError``.
    """
    try:
        return make()
    except DataError:
        raise
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: {error}") from None


def settings(cls: type[Made], value: Any, where: str, **given: Any) -> Made:
    """A settings dataclass from a file's mapping.

    Args:
        cls: the class; its bounds are checked where it is ``Bounded``.
        value: the mapping.
        where: its place, for messages.
        **given: fields that the file does not state.

    Raises:
        DataError: for a field that the class has not, with a did-you-mean, or a value out of its bounds.
    """
    known = [f.name for f in fields(cls) if f.name not in given]  # type: ignore[arg-type]  # a dataclass
    found = mapping(value, where, known)
    return located(where, lambda: cls(**given, **found))
