"""Finds the official files in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from refit_env.data.messages import listed
from refit_env.errors import DataError


def one_file(source: Path, usual: Sequence[str], ending: str) -> Path:
    """Return the file itself, or the one in the folder that has a usual name or the ending.

    Raises:
        DataError: if there is none, or more than one with the ending; the message lists what is there.
    """
    if source.is_file():
        return source
    for name in usual:
        if (source / name).is_file():
            return source / name
    return only(source, sorted(source.glob(f"*{ending}")), f"{usual[0]} (or one *{ending})")


def all_files(source: Path, wanted: Sequence[Sequence[str]]) -> list[Path]:
    """Return the files that belong together, each by the first of its usual names that exists.

    Args:
        source: their folder, or one of the files.
        wanted: the usual names of each file.

    Raises:
        DataError: if one is missing; the message names it, and lists what is there.
    """
    folder = source.parent if source.is_file() else source
    found = []
    for names in wanted:
        here = [folder / name for name in names if (folder / name).is_file()]
        if not here:
            raise DataError(f"{folder}: no {' or '.join(names)}; {_holds(folder)}")
        found.append(here[0])
    return found


def only(folder: Path, found: Sequence[Path], what: str) -> Path:
    """Return the one file that was found; raise an error if there is none, or more than one."""
    if len(found) == 1:
        return found[0]
    raise DataError(f"{folder}: {'more than one' if found else 'no'} {what}; {_holds(folder)}")


def _holds(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return f"the folder holds {listed(names) or 'nothing'}"
