"""Where a measurement comes from: code, command, data, libraries, machine; one form for all studies."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from agents.runs.hardware import machine, machine_of, made_with

SOURCE = Path(__file__).resolve().parents[2]
"""The folder that holds the two packages."""
CODE = ("agents", "refit_env", "benchmarks", "pyproject.toml", ":!benchmarks/results")
"""What must be unchanged for a commit to name the code."""
STATED = "REFIT_COMMIT"
"""The environment variable that names the commit of a copy without git, such as one on another machine."""
OUT = "--out"
"""The option that names the folder of the records."""


@dataclass(frozen=True)
class Commit:
    """The code that measured."""

    id: str | None
    """Git's hash; None where the code is no checkout (an installed package: see the version)."""
    dirty: bool | None
    """Whether the code differed from the commit, files that git does not know included."""

    def __str__(self) -> str:
        """Twelve digits, with a ``+`` where the code differed.

        Example:
            >>> str(Commit("0123456789abcdef", True)), str(Commit(None, None))
            ('0123456789ab+', 'unknown')
        """
        return "unknown" if self.id is None else self.id[:12] + ("+" if self.dirty else "")


@dataclass(frozen=True)
class Data:
    """The data that a measurement was made on."""

    name: str
    """Name of the data set."""
    fingerprint: str
    """SHA-256 of its content (``Dataset.fingerprint``)."""


@dataclass(frozen=True)
class Provenance:
    """Everything besides the settings that a repetition would have to match."""

    commit: Commit
    """Commit of the code."""
    command: str
    """The command that the user typed."""
    data: Data | None
    """None where none is read from the data home."""
    versions: dict[str, str]
    """Versions of Python, this package and its libraries."""
    machine: dict[str, Any]
    """Processor, cores, threads, load, GPU."""

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


def provenance(data: str = "", command: str = "") -> Provenance:
    """The provenance of what this process measures now.

    Args:
        data: name of the data set; empty for none.
        command: what the user typed; ``command_line`` of the process that the user started.
    """
    return Provenance(commit(), command or command_line(), data_of_name(data), made_with(), machine())


def provenance_of(record: Mapping[str, Any]) -> Provenance | None:
    """What a cell's file says of it; None in files that were written before it was recorded.

    Raises:
        msgspec.ValidationError: if it is of another form.
    """
    found = record.get("provenance")
    return None if found is None else msgspec.convert(found, Provenance)


def sources(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Where the cells behind a table come from: counts by commit and processor, and fingerprints of data.

    Args:
        records: of the cells.

    Returns:
        ``commits``, ``processors``, ``data`` (data set -> fingerprints), and ``unrecorded``: how many cells
        were measured before code and data were recorded.
    """
    commits, processors, unrecorded = Counter[str](), Counter[str](), 0
    data: dict[str, set[str]] = {}
    for record in records:
        made = provenance_of(record)
        processors[str(machine_of(record).get("processor", "unknown"))] += 1
        if made is None:
            unrecorded += 1
            continue
        commits[str(made.commit)] += 1
        if made.data is not None:
            data.setdefault(made.data.name, set()).add(made.data.fingerprint)
    found = {name: sorted(prints) for name, prints in sorted(data.items())}
    counts = {"commits": dict(sorted(commits.items())), "processors": dict(sorted(processors.items()))}
    return counts | {"data": found, "unrecorded": unrecorded}


@cache
def data_of_name(name: str) -> Data | None:
    """A data set's fingerprint as it now is in the data home; None for an empty name.

    Raises:
        DataError: if it is not there.
    """
    if not name:
        return None
    from refit_env.data import load_dataset  # pandas, which a cell without data need not wait for

    return Data(name, load_dataset(name).fingerprint)


def commit(source: Path = SOURCE) -> Commit:
    """The commit of a source tree, and whether its code has changed since.

    Args:
        source: the folder that holds the packages; a folder within somebody else's checkout (an installed
            package, say) has no commit of its own.
    """
    top = _git(source, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != source.resolve():
        return Commit(_stated(), None)
    changed = _git(source, "status", "--porcelain", "--", *CODE)
    return Commit(_git(source, "rev-parse", "HEAD"), None if changed is None else changed != "")


def _stated() -> str | None:
    """The commit that the environment variable names; None where it is not set."""
    text = os.environ.get(STATED, "")
    if text and not re.fullmatch("[0-9a-f]{40}", text):
        raise ValueError(f"{STATED}={text!r} must be the 40 hexadecimal digits of a commit")
    return text or None


def command_line() -> str:
    """The command that started this process, as a user would type it.

    The program is named without its folder, and ``--out``, which decides no result, is left out, so that a
    record holds no folder of the machine but those of other options.
    """
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = Path(sys.argv[0]).name
    if spec is not None and spec.name:
        program = "python -m " + spec.name.removesuffix(".__main__")
    words = [
        word
        for before, word in pairwise([program, *sys.argv[1:]])
        if OUT not in (before, word) and not word.startswith(f"{OUT}=")
    ]
    return " ".join([program, *words])


def _git(folder: Path, *words: str) -> str | None:
    """What git prints; None where there is no git, or it fails."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
