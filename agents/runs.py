"""The run folder: what a training command leaves behind, and how the others find it.

===================  =========================================================================
file                 holds
===================  =========================================================================
``config.json``      the command with all its settings, the seed, versions and the machine
``policy.*``         the weights (``.safetensors``) and what they belong to (``.json``)
``metrics.json``     the result; written last, so its presence says that the run ended
``log.csv``, ``tb``  scalars of every iteration, as a table and as TensorBoard events
``curve.png``        a picture of the log
===================  =========================================================================
"""

from __future__ import annotations

import math
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from refit_env.files import read_json, write_json

CONFIG, METRICS, POLICY, POLICY_META = "config.json", "metrics.json", "policy.safetensors", "policy.json"
LOG, TENSORBOARD, CURVE = "log.csv", "tb", "curve.png"
STATES = ("pretrain.safetensors", "resume.safetensors")
"""What resuming needs; gone from a finished run."""
_PACKAGES = ("refit-env", "torch", "gymnasium", "numpy", "scipy", "pandas", "stable-baselines3")


class RunError(ValueError):
    """A run folder is missing, incomplete, or holds another run than the one asked for."""


class RunFolder:
    """One run on disk.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name a folder; use ``create`` or ``open``, which check it."""
        self.path = Path(path)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        command: str,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
    ) -> RunFolder:
        """Begin a run: make the folder and write ``config.json``.

        Args:
            path: the folder; an empty one or none.
            command: what makes the run, for example ``"finetune"``.
            settings: JSON-plain settings of the command, enough to repeat it.
            overwrite: whether an earlier run in the folder is deleted. Only the files of a run are;
                others stay.

        Raises:
            RunError: if the folder holds a run already, or is a file.
        """
        run = cls(path)
        if run.path.exists() and not run.path.is_dir():
            raise RunError(f"{run.path} is a file; a run needs a folder")
        if run.exists():
            if not overwrite:
                raise RunError(
                    f"{run.path} holds a run already ({run.describe()}). "
                    "Choose another folder with --out, or pass --overwrite to replace it."
                )
            run.clear()
        run.path.mkdir(parents=True, exist_ok=True)
        write_json(run.path / CONFIG, {"command": command, **settings, "made_with": made_with()})
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str], needs: Sequence[str] = (CONFIG, POLICY)) -> RunFolder:
        """Find an earlier run.

        Args:
            path: its folder.
            needs: the files that must be there.

        Raises:
            RunError: if the folder or one of the files is missing; the message names them.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise RunError(f"no run folder {str(run.path)!r}" + _neighbours(run.path))
        missing = [name for name in needs if not (run.path / name).exists()]
        if missing:
            there = ", ".join(sorted(p.name for p in run.path.iterdir())) or "nothing"
            raise RunError(f"{run.path} is no finished run: {', '.join(missing)} missing. It holds: {there}.")
        return run

    def exists(self) -> bool:
        """Whether the folder holds a run, finished or not."""
        return (self.path / CONFIG).exists()

    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / METRICS).exists()

    def describe(self) -> str:
        """Say in a few words what the folder holds."""
        config = self.config
        state = "finished" if self.finished() else "not finished"
        return f"{config.get('command')} of {config.get('env')}, seed {config.get('seed')}, {state}"

    @property
    def config(self) -> dict[str, Any]:
        """What ``config.json`` holds."""
        config: dict[str, Any] = read_json(self.path / CONFIG)
        return config

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds."""
        metrics: dict[str, Any] = read_json(self.path / METRICS)
        return metrics

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write ``metrics.json`` and drop the resume states; NaN and infinity become null."""
        write_json(self.path / METRICS, _finite(metrics))
        for name in STATES:
            (self.path / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete the files of a run and nothing else, ``config.json`` last: half-cleared, it is still one."""
        for name in (METRICS, *STATES, POLICY, POLICY_META, LOG, CURVE):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / TENSORBOARD, ignore_errors=True)
        (self.path / CONFIG).unlink(missing_ok=True)


def made_with() -> dict[str, str]:
    """Versions and machine, for ``config.json``: what a repetition would have to match."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # a source tree on the path, not installed
            versions[package] = "unknown"
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
    } | versions


def _finite(value: Any) -> Any:
    """Replace the numbers that JSON does not know by None."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _neighbours(path: Path) -> str:
    """Name the runs beside a missing folder."""
    if not path.parent.is_dir():
        return f": there is no folder {str(path.parent)!r} either"
    runs = sorted(p.name for p in path.parent.iterdir() if (p / CONFIG).exists())
    return f". Runs in {str(path.parent)!r}: {', '.join(runs)}." if runs else ""
