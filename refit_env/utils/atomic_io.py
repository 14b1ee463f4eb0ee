"""Files are written beside their place and then renamed: a reader sees the old one or the new one, whole."""

from __future__ import annotations

import glob
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from refit_env.errors import DataError

Record = TypeVar("Record")
LARGEST_JSON = 64 * 2**20
"""Bytes of the largest JSON file that is read."""


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; it takes the target's place when the block ends well.

    After an error nothing is left, and the target is as it was. The folder is made if it is not there.

    Raises:
        OSError: naming the target, if it cannot be written (a full disk, a folder that is read-only).
    """
    target = Path(target)
    with errors_name(target), _beside(target) as temporary:
        yield temporary


@contextmanager
def errors_name(path: Path | str) -> Iterator[None]:
    """Within, errors of the system that name no file, or the temporary one beside ``path``, name ``path``."""
    try:
        yield
    except OSError as error:
        named = "" if error.filename is None else Path(os.fsdecode(error.filename)).name
        if error.errno is None or (named and not named.startswith(f".{Path(path).name}.")):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Yield a path that takes the place of ``target`` when the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)  # mkstemp makes files for the owner alone; give what open() would have given
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def file_state(path: Path | str) -> tuple[str, int, int, int, int] | None:
    """What is different once a file has been written anew, for the key of a cache; None if there is no file.

    Its place, inode, times of change and size: an older file put in place with its own date is another, too.
    """
    path = Path(path)
    try:
        found = path.stat()
    except (OSError, ValueError):  # a name that no file can have
        return None
    return str(path.resolve()), found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as indented JSON, atomically.

    Raises:
        TypeError: if the value is not JSON-plain.
        ValueError: if it holds NaN or infinity, which JSON does not know.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def finite(value: Any) -> Any:
    """The value with None for the numbers that JSON does not know.

    Example:
        >>> finite({"best": [float("-inf"), 3], "loss": 0.5})
        {'best': [None, 3], 'loss': 0.5}
    """
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def remove_temporaries(target: Path | str) -> None:
    """Delete what writers that were killed left beside ``target``; only where nobody else writes there."""
    target = Path(target)
    for path in target.parent.glob(f".{glob.escape(target.name)}.*"):
        path.unlink(missing_ok=True)


def read_json(path: Path | str) -> Any:
    """Read a JSON file of any content.

    Raises:
        DataError: if the file is missing or holds no JSON; the message names it.
    """
    return read_record(path, object)


def read_record(
    path: Path | str, kind: type[Record], *, error: type[ValueError] = DataError, limit: int = LARGEST_JSON
) -> Record:
    """Read a JSON file and check it against a type.

    Args:
        path: the file.
        kind: what it must hold: a dataclass, ``TypedDict``, ``msgspec.Struct``, or a built-in type such as
            ``dict[str, int]``. Bounds are stated as ``Annotated[int, msgspec.Meta(ge=1)]``. Fields that the
            type does not name are left out.
        error: raised for whatever is wrong.
        limit: bytes; a larger file is refused unread.

    Returns:
        The value.

    Raises:
        ValueError: of the type ``error``, if the file is missing, too large, no JSON, or of another shape.
            The message names the file and the field, and holds none of the file's content.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > limit:
            raise error(f"{path}: {size} bytes; a file of this kind has at most {limit}")
        content = path.read_bytes()
    except FileNotFoundError:
        raise error(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise error(f"{path}: is a folder, expected a JSON file") from None
    return parse_record(content, kind, str(path), error=error)


def parse_record(
    content: bytes | str, kind: type[Record], where: str, *, error: type[ValueError] = DataError
) -> Record:
    """Check JSON text against a type; see ``read_record``.

    Args:
        content: the text.
        kind: what it must hold.
        where: the text's place, for the message.
        error: raised for whatever is wrong.

    Example:
        >>> parse_record('{"num_users": 0}', dict[str, str], "dataset.json")
        Traceback (most recent call last):
            ...
        refit_env.errors.DataError: dataset.json: expected `str`, got `int` - at `$[...]`
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as problem:
        raise error(_explained(where, problem)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise error(f"{where}: not a JSON file ({problem})") from None
    except RecursionError:
        raise error(f"{where}: not a JSON file of this library (nested too deeply)") from None


def check_record(
    value: Any, kind: type[Record], where: str, *, error: type[ValueError] = DataError
) -> Record:
    """Check plain values, such as ``read_json`` gives, against a type; see ``read_record``.

    Example:
        >>> check_record({"epochs": 3}, dict[str, float], "config.json")
        {'epochs': 3.0}
    """
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as problem:
        raise error(_explained(where, problem)) from None
    except RecursionError:
        raise error(f"{where}: nested too deeply") from None


def _explained(where: str, problem: msgspec.ValidationError) -> str:
    """The message for content of another shape."""
    text = str(problem)
    if len(text) > 200:  # a wrong name stands in the message, however long it is
        text = f"{text[:120]} ... {text[-60:]}"
    return f"{where}: {text[:1].lower()}{text[1:]}"
