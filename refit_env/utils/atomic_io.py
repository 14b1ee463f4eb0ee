"""Atomic writing of files, and JSON files checked against types.

A file is written to a temporary path beside the target, then renamed: a reader sees the complete old file or
the complete new one.
"""

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
from refit_env.utils.record_faults import in_words

Record = TypeVar("Record")
LARGEST_JSON = 64 * 2**20
"""Most bytes of a JSON file."""


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; it replaces the target if the block ends without an error.

    After an error the temporary file is removed and the target unchanged. A missing folder is created.

    Raises:
        OSError: naming the target, if it cannot be written (a full disk, a read-only folder).
    """
    target = Path(target)
    with errors_name(target), _beside(target) as temporary:
        yield temporary


@contextmanager
def errors_name(path: Path | str) -> Iterator[None]:
    """Return a context in which system errors that name no file, or the temporary one, name ``path``."""
    try:
        yield
    except OSError as error:
        named = "" if error.filename is None else Path(os.fsdecode(error.filename)).name
        if error.errno is None or (named and not named.startswith(f".{Path(path).name}.")):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``target`` if the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)  # mkstemp creates private files; set the permissions that open() would set
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def file_state(path: Path | str) -> tuple[str, int, int, int, int] | None:
    """Return a key that changes whenever a file is written, for caches; None if there is no file.

    The key holds the path, inode, change times and size, so a file that is replaced by an older one differs.
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
        ValueError: if it contains NaN or infinity, which JSON does not have.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def finite(value: Any) -> Any:
    """Return the value with None in place of NaN and infinity, which JSON does not have.

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
    """Delete temporary files of killed processes beside ``target``; no other process may write the target."""
    target = Path(target)
    for path in target.parent.glob(f".{glob.escape(target.name)}.*"):
        path.unlink(missing_ok=True)


def read_json(path: Path | str) -> Any:
    """Read a JSON file of any content.

    Raises:
        DataError: if the file is missing or not JSON; the message names it.
    """
    return read_record(path, object)


def read_record(
    path: Path | str, kind: type[Record], *, error: type[ValueError] = DataError, limit: int = LARGEST_JSON
) -> Record:
    """Read a JSON file and check it against a type.

    Args:
        path: the file.
        kind: expected type: a dataclass, ``TypedDict``, ``msgspec.Struct``, or a built-in type such as
            ``dict[str, int]``. Bounds are stated as ``Annotated[int, msgspec.Meta(ge=1)]``. Fields that the
            type does not name are dropped.
        error: type of the error that is raised.
        limit: most bytes; a larger file is not read.

    Returns:
        The value.

    Raises:
        ValueError: of the type ``error``, if the file is missing, too large, not JSON, or of another type.
            The message names the file and the field, and contains none of the file's content.
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
        kind: expected type.
        where: file or line of the text, for the message.
        error: type of the error that is raised.

    Example:
        >>> parse_record('{"num_users": 0}', dict[str, str], "dataset.json")
        Traceback (most recent call last):
            ...
        refit_env.errors.DataError: dataset.json: a value must be text, found a whole number
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as problem:
        raise error(f"{where}: {in_words(str(problem), kind)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise error(f"{where}: not a JSON file ({problem})") from None
    except RecursionError:
        raise error(f"{where}: not a JSON file of this library (nested too deeply)") from None


def check_record(
    value: Any, kind: type[Record], where: str, *, error: type[ValueError] = DataError
) -> Record:
    """Check plain values, such as ``read_json`` returns, against a type; see ``read_record``.

    Example:
        >>> check_record({"epochs": 3}, dict[str, float], "config.json")
        {'epochs': 3.0}
    """
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as problem:
        raise error(f"{where}: {in_words(str(problem), kind)}") from None
    except RecursionError:
        raise error(f"{where}: nested too deeply") from None
