"""Finds the official files in a folder, whether their names are written in capitals or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from refit_env.data.messages import listed
from refit_env.errors import DataError


def named(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the file of the first of several names that exists; None if there is none.

    A file whose name differs only in capitals counts where no file has the name itself.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
        same = [path for path in with_ending(folder, name) if len(path.name) == len(name)]
        if len(same) == 1:
            return same[0]
    return None


def with_ending(folder: Path, ending: str) -> list[Path]:
    """Return the files of a folder with an ending, in capitals or not, by name."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.lower().endswith(ending.lower()) and p.is_file())


def one_file(source: Path, usual: Sequence[str], ending: str) -> Path:
    """Return the file itself, or the one in the folder that has a usual name or the ending.

    Raises:
        DataError: if there is none, or more than one with the ending; the message lists what is there.
    """
    if source.is_file():
        return source
    found = named(source, usual)
    return found or only(source, with_ending(source, ending), f"{usual[0]} (or one *{ending})")


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
        here = named(folder, names)
        if here is None:
            raise DataError(f"{folder}: no {' or '.join(names)}; {_holds(folder)}")
        found.append(here)
    return found


def only(folder: Path, found: Sequence[Path], what: str) -> Path:
    """Return the one file that was found; raise an error if there is none, or more than one."""
    if len(found) == 1:
        return found[0]
    raise DataError(f"{folder}: {'more than one' if found else 'no'} {what}; {_holds(folder)}")


def _holds(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return f"the folder holds {listed(names) or 'nothing'}"
