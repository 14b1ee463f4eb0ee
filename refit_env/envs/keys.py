"""Cache keys of an environment's arguments: their values, and the state of the files that they name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from refit_env.checkpoint import POLICY
from refit_env.utils.atomic_io import file_state
from refit_env.utils.user_code import is_place, source_of


def files_of(value: Any) -> Hashable:
    """Return the state of every file and checkpoint folder in a value, also within mappings and lists."""
    if isinstance(value, Mapping):
        return tuple((files_of(name), files_of(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(files_of(item) for item in value)
    if not isinstance(value, str | Path):
        return None
    if isinstance(value, str) and is_place(value) and (code := code_of(value)) is not None:
        return code
    try:
        folder = file_state(Path(value) / f"{POLICY}.safetensors")
        return file_state(value) if folder is None and Path(value).is_file() else folder
    except (OSError, ValueError):  # a text that can name no file
        return None


def code_of(place: str) -> Hashable:
    """Return the file that a place of user code names and its content; None for another text with a colon."""
    try:
        source = source_of("code", place)
    except ValueError:
        return None
    return None if source is None else (source["file"], source["sha256"])


def frozen(value: Any) -> Hashable:
    """Return the value as a hashable key: tuples for mappings and lists; 1, 1.0 and True are different keys.

    The order of a mapping counts: that of a mix's parts is the order in which they are summed.
    """
    if isinstance(value, Mapping):
        return tuple((frozen(name), frozen(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    kept: Hashable = value
    return type(value).__name__, kept
