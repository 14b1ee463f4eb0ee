"""The records of a study: one JSON line a cell, and whether each is still what would be measured now.

A record holds ``key``, ``settings`` (whatever decides the result), ``provenance`` (code, command, data,
versions, machine) and the result. Lines are only ever appended: of two with the same key the later one
counts. A record is stale if its settings differ from those of now, or its data's fingerprint from that of the
data at hand. Another commit does not make it stale: it is reported.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock

from agents.experiments.provenance import Data, commit, data_of_name, provenance_of
from agents.runs.contents import with_present_names
from refit_env.errors import DataError
from refit_env.settings import plain
from refit_env.utils.atomic_io import errors_name, file_state, parse_record
from refit_env.utils.record_faults import in_words

REDO = "--redo measures it again"
"""What can be done about a stale cell."""
LOCKS, ERRORS = ".locks", "errors"
"""Folders beside the records: of locks, and of the tracebacks of cells that failed."""
SHOWN = 20
"""Stale cells that an error names, at most."""
SAID, LONGEST = 3, 60
"""Settings of one cell that a message names, at most, and the characters of a value."""


class CellError(ValueError):
    """Records were made with other settings or on other data than those of now."""


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        key: of its record; unlike every other's. work: a function of a module, called with ``arguments``;
        what it returns is JSON-plain. arguments: picklable. settings: whatever decides the result: JSON-plain
        values and dataclasses of them. data: name of the data set that it is measured on; empty for none.
        needs: keys of the cells that must be finished before this one begins. leaves: a file that others work
        with. Where it is gone (it was not kept with the records) and one of them
            is still to run, the cell is run again.
    """

    key: str
    work: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""
    needs: tuple[str, ...] = ()
    leaves: Path | None = None

    def error_path(self, records: Path) -> Path:
        """The traceback of its last failure."""
        return records.parent / ERRORS / f"{self.key}.txt"


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """The records of a file by key, in the order in which each was first written; empty without a file.

    A last line that was not written to its end counts as not written.

    Raises:
        DataError: for a line that is no record; the message names the file and the line.
    """
    state = file_state(path)
    return {} if state is None else dict(_records_in(path, state))


@lru_cache(maxsize=8)
def _records_in(path: Path, state: object) -> dict[str, dict[str, Any]]:
    """What a file holds while it is in a certain state."""
    found: dict[str, dict[str, Any]] = {}
    with errors_name(path):
        lines = path.read_bytes().split(b"\n")
    for place, line in enumerate(lines):
        where = f"{path} line {place + 1}"
        whole = place + 1 < len(lines)
        if not line.strip() or not (whole or _is_json(line)):
            continue
        record = parse_record(line, dict[str, Any], where)
        if not isinstance(record.get("key"), str):
            raise DataError(f"{where}: key must be a text")
        try:
            provenance_of(record)
        except msgspec.ValidationError as error:
            raise DataError(f"{where}: provenance: {in_words(str(error))}") from None
        found[record["key"]] = record
    return found


def _is_json(line: bytes) -> bool:
    """Whether a line was written to its end."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append a record to a file; several processes may do so at once.

    Raises:
        ValueError: if the record holds NaN or infinity, which JSON does not know.
        OSError: if the file cannot be written.
    """
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    (path.parent / LOCKS).mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / LOCKS / f"{path.name}.lock"), errors_name(path), path.open("ab+") as file:
        file.seek(0)
        last = file.read().rpartition(b"\n")[2]
        if last and not _is_json(last):  # a writer was killed within its line
            file.truncate(file.tell() - len(last))
        file.write(b"\n" * _is_json(last) + text.encode("utf-8") + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_cell(
    records: Path, cell: Cell, *, stale: bool = False, absent: bool = True
) -> dict[str, Any] | None:
    """The record of a cell; None where there is none.

    Args:
        records: the file.
        cell: which.
        stale: whether a stale record is returned, too.
        absent: of ``staleness``.

    Raises:
        CellError: if it is stale; one line that says how, and what to do.
        DataError: if the file is damaged.
    """
    found = read_records(records).get(cell.key)
    if found is None:
        return None
    changed = [] if stale else staleness(found, cell, absent=absent)
    if changed:
        raise CellError(f"{records}: {cell.key} is stale, {'; '.join(changed)}. {REDO}.")
    return found


def staleness(found: Mapping[str, Any], cell: Cell, *, absent: bool = True) -> list[str]:
    """Why a record is not what would be measured now; empty where it is.

    Args:
        found: the record.
        cell: that it is of.
        absent: whether data that is not here counts; it may be the record's, and cannot be measured on.
    """
    old = found.get("settings")
    now = cell.settings
    changed = (
        ["it does not record its settings"] if old is None else differences(with_present_names(old), now)
    )
    if len(changed) > SAID:
        changed = [*changed[:SAID], f"and {len(changed) - SAID} more settings"]
    if cell.data:
        made = provenance_of(found)
        changed += _other_data(None if made is None else made.data, cell.data, absent)
    return changed


def _other_data(old: Data | None, name: str, absent: bool) -> list[str]:
    """Whether a record was made on the data set ``name`` as it now is in the data home, if it is there."""
    if old is None:
        return ["it does not record the fingerprint of its data"]
    try:
        new = data_of_name(name)
    except DataError as error:
        return [f"its data cannot be compared: {error}"] if absent else []
    if old == new or new is None:
        return []
    return [f"data was {old.name} {old.fingerprint[:12]}, now {new.name} {new.fingerprint[:12]}"]


def unfinished(
    cells: Sequence[Cell], records: Path, *, redo: bool = False, absent: bool = True
) -> list[Cell]:
    """The cells that have no record yet.

    Args:
        cells: in question.
        records: the file.
        redo: count stale ones among them.
        absent: of ``staleness``.

    Raises:
        CellError: naming stale records, a line each, unless they are to be measured again.
    """
    missing, wrong = [], []
    for cell in cells:
        try:
            if read_cell(records, cell, absent=absent) is None:
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
        new: those of now; JSON-plain values and dataclasses of them. A field that the record lacks was added
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


def other_commits(cells: Sequence[Cell], records: Path) -> str:
    """One line on the finished cells that were measured by another commit; empty where there are none."""
    here, found = commit(), Counter[str]()
    for cell in cells:
        record = read_cell(records, cell, stale=True)
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
