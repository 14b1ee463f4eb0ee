"""The file of a cell: what it holds, and whether it is still what would be measured now.

A record holds ``settings`` (whatever decides the result), ``provenance`` (code, command, data, versions,
machine) and the result. It is stale if its settings differ from those asked for, or its data's fingerprint
from that of the data at hand. Another commit does not make it stale: it is reported.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import msgspec

from agents.experiments.provenance import Data, commit, data_of_name, provenance_of
from refit_env.errors import DataError
from refit_env.utils.atomic_io import read_record

REDO = "--redo measures it again"
"""What can be done about a stale cell."""


SHOWN = 20
"""Stale cells that an error names, at most."""


SAID, LONGEST = 3, 60
"""Settings of one cell that a message names, at most, and the characters of a value."""


class CellError(ValueError):
    """A folder holds cells that were made with other settings or on other data than those asked for."""


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        key: stem of its file; unlike every other's.
        work: a function of a module, called with ``arguments``; what it returns is JSON-plain.
        arguments: picklable.
        settings: whatever decides the result: JSON-plain values and dataclasses of them.
        data: name of the data set that it is measured on; empty for none.
        needs: keys of the cells that must be finished before this one begins.
        leaves: a file besides its own that others work with. Where it is gone (it was not kept with the
            results) and one of them is still to run, the cell is run again.
    """

    key: str
    work: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""
    needs: tuple[str, ...] = ()
    leaves: Path | None = None

    def path(self, folder: Path) -> Path:
        """Its file."""
        return folder / f"{self.key}.json"

    def error_path(self, folder: Path) -> Path:
        """The traceback of its last failure."""
        return folder / f"{self.key}.error.txt"


def read_cell(folder: Path, cell: Cell, *, stale: bool = False) -> dict[str, Any] | None:
    """What a cell's file holds; None where there is none.

    Args:
        folder: of the files.
        cell: which.
        stale: whether a stale record is returned, too.

    Raises:
        CellError: if it is stale; one line that says how, and what to do.
        DataError: if it is no record.
    """
    path = cell.path(folder)
    if not path.exists():
        return None
    found = read_record(path, dict[str, Any])
    try:
        provenance_of(found)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: provenance: {error}") from None
    changed = [] if stale else staleness(found, cell)
    if changed:
        raise CellError(f"{path}: stale, {'; '.join(changed)}. {REDO}, or delete the file.")
    return found


def staleness(found: Mapping[str, Any], cell: Cell) -> list[str]:
    """Why a record is not what would be measured now; empty where it is."""
    old = found.get("settings")
    changed = ["it does not record its settings"] if old is None else differences(old, cell.settings)
    if len(changed) > SAID:
        changed = [*changed[:SAID], f"and {len(changed) - SAID} more settings"]
    if cell.data:
        made = provenance_of(found)
        changed += _other_data(None if made is None else made.data, cell.data)
    return changed


def _other_data(old: Data | None, name: str) -> list[str]:
    """Whether a record was made on the data set ``name`` as it now lies in the data home."""
    if old is None:
        return ["it does not record the fingerprint of its data"]
    try:
        new = data_of_name(name)
    except DataError as error:
        return [f"its data cannot be compared: {error}"]
    if old == new or new is None:
        return []
    return [f"data was {old.name} {old.fingerprint[:12]}, now {new.name} {new.fingerprint[:12]}"]


def unfinished(cells: Sequence[Cell], folder: Path, *, redo: bool = False) -> list[Cell]:
    """The cells that have no file yet.

    Args:
        cells: in question.
        folder: of the files.
        redo: count stale ones among them.

    Raises:
        CellError: naming stale files, a line each, unless they are to be measured again.
    """
    missing, wrong = [], []
    for cell in cells:
        try:
            if read_cell(folder, cell) is None:
                missing.append(cell)
        except CellError as error:
            missing.append(cell)
            wrong.append(str(error))
    if wrong and not redo:
        more = [f"... and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        raise CellError("\n".join(wrong[:SHOWN] + more))
    return missing


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Say in which entries two settings differ.

    Args:
        old: of a record, JSON-plain.
        new: as asked for; JSON-plain values and dataclasses of them. A field that the record lacks was added
            to the class later: it differs unless it has its default, with which all is as before.
        name: of the entry.

    Example:
        >>> differences({"seed": 0, "agent": {"lr": 1}}, {"seed": 0, "agent": {"lr": 2}})
        ['agent.lr was 1, now 2']
    """
    known: dict[str, Any] = {}
    if is_dataclass(new) and not isinstance(new, type):
        known = {f.name: _default(f) for f in fields(new)}
        new = {f.name: getattr(new, f.name) for f in fields(new)}
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        out = []
        for key in sorted(old.keys() | new.keys()):
            before = old[key] if key in old else plain(known.get(key))
            out += differences(before, new.get(key), f"{name}.{key}" if name else str(key))
        return out
    new = plain(new)
    return [] if old == new else [f"{name or 'settings'} was {_short(old)}, now {_short(new)}"]


def _short(value: Any) -> str:
    """A setting in a message: None is one that is not there, a long one is cut."""
    text = "not set" if value is None else repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def plain(value: Any) -> Any:
    """A setting as JSON reads it: dataclasses as objects, tuples as lists."""
    return json.loads(json.dumps(value, default=asdict))


def other_commits(cells: Sequence[Cell], folder: Path) -> str:
    """One line on the finished cells that were measured by another commit; empty where there are none."""
    here, found = commit(), Counter[str]()
    for cell in cells:
        record = read_cell(folder, cell, stale=True)
        made = None if record is None else provenance_of(record)
        if made is not None and made.commit.id != here.id:
            found[str(made.commit)] += 1
    if not found:
        return ""
    counts = ", ".join(f"{name} ({count})" for name, count in sorted(found.items()))
    return f"finished cells of other commits: {counts}; the code is now {here}"


def _default(of: Field[Any]) -> Any:
    """A field's default; None where it has none."""
    if of.default is not MISSING:
        return of.default
    return of.default_factory() if of.default_factory is not MISSING else None
