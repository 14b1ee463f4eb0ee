"""Write what searches of baselines chose into the settings of their data sets.

``refit baseline NAMES --env ID --tune FOLDER`` leaves FOLDER/NAME.json. This program copies such files into
benchmarks/results/search-baselines.jsonl, one line a baseline and data set, and writes the entry
``baselines`` of agents/hyperparams/DATASET.yml from that file:

    python -m benchmarks.baseline_settings FOLDER [FOLDER ...]

A search that is there is replaced by one with more trials. Without folders the entries are written again;
``--check`` changes nothing and fails where an entry is not what the searches chose. Settings of baselines
that were not searched stay as they are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agents.baselines.tuning import LARGEST, TuningRecord
from agents.hyperparams.models import BASELINES, FOLDER
from agents.hyperparams.yaml_files import mapping, read_yaml
from refit_env.errors import DataError
from refit_env.utils.atomic_io import atomic_path, read_record

SEARCHES = Path(__file__).resolve().parent / "results" / "search-baselines.jsonl"
"""The searches."""
DIGITS = 4
"""Significant digits of a setting."""
ABOUT = (
    "# The best on validation of the searches in benchmarks/results/search-baselines.jsonl, written by\n"
    "# benchmarks/baseline_settings.py; entries without a number of trials were not searched like that.\n"
)


def read_searches(path: Path = SEARCHES) -> dict[tuple[str, str], TuningRecord]:
    """Read the searches: (data set, baseline) -> its trials; empty without a file.

    Raises:
        DataError: for a line that is no search; the message names the file and the line.
    """
    found = {}
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            record = msgspec.json.decode(line, type=TuningRecord)
        except msgspec.DecodeError as error:
            raise DataError(f"{path} line {number}: {error}") from None
        found[record.dataset, record.baseline] = record
    return found


def write_searches(found: Mapping[tuple[str, str], TuningRecord], path: Path = SEARCHES) -> None:
    """Write the searches, sorted by data set and baseline."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(msgspec.json.encode(found[key]) + b"\n" for key in sorted(found)))


def take_in(folders: Sequence[Path], found: dict[tuple[str, str], TuningRecord]) -> int:
    """Add the searches of folders to ``found``; returns how many were added or replaced.

    Raises:
        DataError: for a folder that is not there or holds no search, or a damaged file.
    """
    taken = 0
    for folder in folders:
        files = sorted(folder.glob("*.json"))
        if not files:
            raise DataError(f"{folder}: there is no search of a baseline (NAME.json) in this folder")
        for file in files:
            new = read_record(file, TuningRecord, error=DataError, limit=LARGEST)
            old = found.get((new.dataset, new.baseline))
            if old is None or old.fingerprint != new.fingerprint or len(new.trials) >= len(old.trials):
                found[new.dataset, new.baseline] = new
                taken += old != new
    return taken


def chosen(record: TuningRecord) -> dict[str, Any]:
    """The settings that a search chose, with few digits."""
    return {name: _short(value) for name, value in record.best.settings.items()}


def entry_text(
    dataset: str,
    kept: Mapping[str, Any],
    comments: Mapping[str, str],
    found: Mapping[tuple[str, str], TuningRecord],
) -> str:
    """The entry ``baselines`` of a data set's file as YAML; empty where there is nothing to state.

    Args:
        dataset: the name of the data set.
        kept: baseline -> settings as the file has them; those that were not searched stay.
        comments: baseline -> the comment behind its settings.
        found: of ``read_searches``.
    """
    lines = []
    for name in sorted({*kept, *(name for data, name in found if data == dataset)}):
        record = found.get((dataset, name))
        settings = kept.get(name, {}) if record is None else chosen(record)
        about = comments.get(name, "") if record is None else _about(record)
        lines.append(f"  {name}: {_flow(settings)}{about and f'  # {about}'}\n")
    return f"{ABOUT}{BASELINES}:\n{''.join(lines)}" if lines else ""


def file_text(path: Path, found: Mapping[tuple[str, str], TuningRecord]) -> str:
    """A data set's file as it should be; its entry ``baselines`` is the last one."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    kept = mapping(read_yaml(path).get(BASELINES) if text else None, f"{path}: {BASELINES}")
    lines, comments = text.splitlines(keepends=True), dict[str, str]()
    if (
        start := next((n for n, line in enumerate(lines) if line.startswith(f"{BASELINES}:")), None)
    ) is not None:
        end = next(
            (n for n in range(start + 1, len(lines)) if not lines[n].startswith((" ", "#"))), len(lines)
        )
        comments = dict(filter(None, map(_comment, lines[start:end])))
        while start and lines[start - 1].startswith("#"):
            start -= 1
        lines[start:end] = []
    return "".join(lines) + entry_text(path.stem, kept, comments, found)


def main(words: Sequence[str]) -> int:
    """Take in searches and write the files, or with ``--check`` compare them."""
    check = "--check" in words
    found = read_searches()
    folders = [Path(word) for word in words if word != "--check"]
    if folders and not check:
        print(f"{take_in(folders, found)} searches new or longer")
        write_searches(found)
    stale = []
    for dataset in sorted({data for data, _ in found}):
        path = FOLDER / f"{dataset}.yml"
        if (text := file_text(path, found)) != (path.read_text(encoding="utf-8") if path.exists() else ""):
            stale.append(path)
            if not check:
                path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{'out of date' if check else 'wrote'}: {path.name}", file=sys.stderr if check else sys.stdout)
    return 1 if stale and check else 0


def _about(record: TuningRecord) -> str:
    """How a search went, in a few words."""
    best, first = record.best.value, record.trials[0].value
    count = len(record.trials)
    trials = f"{count} trial{'' if count == 1 else 's'}, {record.minutes:.1f} min"
    if count == 1:
        return f"{trials}, {record.metric} {best:.4f}"
    begun = f"the defaults but for {', '.join(record.fixed)}" if record.fixed else "defaults"
    return f"{trials}, {record.metric} {best:.4f} ({begun} {'refused' if first is None else f'{first:.4f}'})"


def _comment(line: str) -> tuple[str, str] | None:
    """The baseline of a line, and the comment behind its settings; None without one."""
    settings, sign, comment = line.partition("}  # ")
    return (settings.partition(":")[0].strip(), comment.strip()) if sign else None


def _flow(settings: Mapping[str, Any]) -> str:
    """Settings as YAML on one line."""
    return "{" + ", ".join(f"{name}: {json.dumps(value)}" for name, value in settings.items()) + "}"


def _short(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except DataError as error:
        sys.exit(f"error: {error}")
