"""Whose files a folder holds: those of a run, of a data set, or of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agents.runs.files import (
    CONFIG,
    DATASET,
    LARGEST,
    POLICY,
    RUN_FILES,
    RUN_FOLDERS,
    STATES,
    TRIALS,
    RunError,
)
from refit_env.utils.atomic_io import read_record


def is_of_another_program(path: Path) -> bool:
    """Return whether ``config.json`` names no command, and no file is there that only a run has."""
    if any((path / name).exists() for name in (*STATES, POLICY, TRIALS)):
        return False
    try:
        return "command" not in read_record(path / CONFIG, dict[str, Any], error=RunError, limit=LARGEST)
    except RunError:
        return False


def files_of_a_run(path: Path) -> list[str]:
    """What in a folder without ``config.json``, thus without a run, has the names of a run's files."""
    return [name for name in (*RUN_FILES, *RUN_FOLDERS) if (path / name).exists()]


def check_no_data_set(path: Path) -> None:
    """Refuse the folder of a data set, where the files of a run would be in the way.

    Raises:
        RunError: naming it.
    """
    if (path / DATASET).exists():
        raise RunError(
            f"{path} is a data set's folder ({DATASET}), where a run's files would be in its way: "
            "choose another folder"
        )


def is_empty_log(log: Path) -> bool:
    """Return whether a file is the log of a training that ended before its first iteration or epoch."""
    if not log.is_file() or log.stat().st_size > LARGEST:
        return False
    steps = [line.split(b",")[0] for line in log.read_bytes().splitlines()]
    return steps[:1] in ([b"iteration"], [b"epoch"]) and set(steps[1:]) <= {b"0"}
