"""The run folder: what a training command leaves behind, and how the others find it."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

from agents.runs.contents import RunConfig, RunMetrics, with_present_names
from agents.runs.files import (
    CANDIDATES,
    CONFIG,
    CURVE,
    EARLIER,
    IDS,
    KEEPING,
    LARGEST,
    LOCK,
    LOG,
    METRICS,
    OF_FINE_TUNING,
    POLICY,
    POLICY_META,
    RUN_FILES,
    RUN_FOLDERS,
    STATES,
    TENSORBOARD,
    RunError,
    RunInUseError,
)
from agents.runs.hardware import made_with
from agents.runs.ownership import check_no_data_set, files_of_a_run, is_empty_log, is_of_another_program
from refit_env.utils.atomic_io import finite, read_record, remove_temporaries, write_json
from refit_env.utils.folders import release


class RunFolder:
    """One run on disk.

    A folder that ``create`` or ``resume`` gave is locked: no other process can begin, resume or replace the
    run until it is finished, closed (it is a context manager), or the process ends.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name a folder; use ``create``, ``resume`` or ``open``, which check it."""
        self.path = Path(path)
        self._lock: FileLock | None = None
        self._begun = self._made = False  # the run, the folder: by this object
        self._resumable = True

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        command: str,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
        needs: Mapping[str, str | os.PathLike[str]] | None = None,
        resumable: bool = True,
    ) -> RunFolder:
        """Begin a run: make the folder, lock it and write ``config.json``.

        Args:
            path: the folder; an empty one or none.
            command: what makes the run, for example ``"finetune"``.
            settings: JSON-plain settings of the command, enough to repeat it.
            overwrite: whether an earlier run in the folder is replaced: only the files of a run; a finished
                one when the new one is finished, another one when the new one has something to keep. A run
                that ends with nothing to keep gives the earlier one back.
            needs: folders that the run reads, by the option that names them: none of them may be ``path``.
            resumable: whether what was begun stays after Ctrl-C, to be resumed.

        Raises:
            RunError: if the folder holds a run or a data set already, or files that the run would replace,
                another process works on it, the run would replace what it reads, or the path is a file.
        """
        run = cls(path)
        run._resumable = resumable
        if run.path.exists() and not run.path.is_dir():
            raise RunError(f"{run.path} is a file; a run needs a folder")
        for option, other in (needs or {}).items():
            if Path(other).resolve() == run.path.resolve():
                raise RunError(
                    f"--out {run.path} is the folder of {option}, which the run reads and would replace: "
                    "choose another --out"
                )
        check_no_data_set(run.path)
        run._made = not run.path.exists()
        run.path.mkdir(parents=True, exist_ok=True)
        run._acquire()
        try:
            if is_of_another_program(run.path):
                raise RunError(
                    f"{run.path} holds a {CONFIG} that is of no run (it names no command): choose another "
                    "folder with --out"
                )
            if run.exists():
                if not overwrite:
                    raise RunError(
                        f"{run.path} holds a run already ({run.describe()}). "
                        "Choose another folder with --out, or pass --overwrite to replace it."
                    )
                run._set_earlier_aside()
            elif others := files_of_a_run(run.path):
                raise RunError(
                    f"{run.path} holds {', '.join(others)}, which a run would replace, and no {CONFIG} "
                    "of a run: choose another folder with --out"
                )
            run.write_config(command, settings)
            run._begun = True
        except BaseException:
            run._settle()
            run.close()
            raise
        return run

    @classmethod
    def resume(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Lock a run that was begun and did not end.

        Args:
            path: its folder.

        Raises:
            RunError: if there is no such run, it is finished, or another process works on it.
        """
        run = cls.open(path, needs=(CONFIG,))
        run._acquire()
        if run.finished():
            run.close()
            raise RunError(run._how_to_go_on())
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str], needs: Sequence[str] = (CONFIG, POLICY)) -> RunFolder:
        """Find an earlier run, to read it.

        Args:
            path: its folder.
            needs: the files that must be there.

        Raises:
            RunError: if the folder or one of the files is missing; the message names them.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise RunError(f"no run folder {str(run.path)!r}" + _neighbours(run.path))
        run.recover()
        missing = [name for name in needs if not (run.path / name).exists()]
        if missing:
            there = [p.name for p in run.path.iterdir() if not p.name.startswith(".")]
            raise RunError(
                f"{run.path} is no finished run: {', '.join(missing)} missing. "
                f"It holds: {', '.join(sorted(there)[:20]) or 'nothing'}."
                + (f" The run that it is to replace is in {run._earlier.path}." if run.replaces() else "")
            )
        return run

    def recover(self) -> None:
        """Finish what a killed process left: a run that was set aside is put back, or deleted if replaced.

        Nothing happens while another process works on the folder, or where it may not be written to.

        Raises:
            RunError: if it holds a policy of no run beside the run that was set aside.
        """
        if self.replaces() and os.access(self.path, os.W_OK):
            try:
                self._acquire()
            except RunInUseError:
                return
            self.close()

    def close(self) -> None:
        """Release the lock, so that other processes can use the run; closing twice is harmless."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            release(lock)

    def __enter__(self) -> RunFolder:
        """Return the folder."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close it, whatever happened; a run that failed before there was anything to resume is removed.

        The run that it was to replace is there again then, also after Ctrl-C.
        """
        failed = kind is not None and not (self._resumable and issubclass(kind, KeyboardInterrupt))
        nothing = failed and self._begun and not self._keeps_something()
        if nothing:
            self.clear()
        if self._lock is not None:
            self._settle()
        self.close()
        if nothing and self._made and not any(self.path.iterdir()):
            self.path.rmdir()

    def exists(self) -> bool:
        """Return whether the folder holds a run, finished or not."""
        return (self.path / CONFIG).exists()

    def replaces(self) -> bool:
        """Return whether an earlier run is kept, which this one is to replace."""
        return self._earlier.path.is_dir()

    def finished(self) -> bool:
        """Return whether the run came to its end."""
        return (self.path / METRICS).exists()

    def check_weights(self, digest: str) -> None:
        """Refuse weights that are not those that the run ended with; of a run that does not say, all pass.

        Args:
            digest: of the weights that its folder holds (``refit_env.checkpoint.weights_digest``).

        Raises:
            RunError: naming both, and what to do.
        """
        recorded = self.metrics.get("weights") if self.finished() else None
        if recorded not in (None, digest):
            raise RunError(
                f"{self.path}: {POLICY} holds the weights {digest[:12]}, but the run ended with "
                f"{str(recorded)[:12]}: they are of another training. Put the former file back; or, if these "
                "weights are meant, pass --other-weights"
            )

    def _how_to_go_on(self) -> str:
        """Say how a finished run's model is trained further."""
        command, name = _short(self.config["command"]), shlex.quote(str(self.path))
        unit = "epochs" if command == "pretrain" else "iterations"
        return (
            f"{self.path} is finished, and a finished run keeps no state to resume. To train its model "
            f"further, begin another run from it: refit {command} --init {name} --out OTHER --{unit} MORE, "
            f"with the options in {self.path / CONFIG} that it shall share"
        )

    def describe(self) -> str:
        """Say in a few words what the folder holds."""
        state = "finished" if self.finished() else "not finished"
        try:
            config = self.config
        except RunError:
            return f"its {CONFIG} is damaged, {state}"
        command, env = _short(config["command"]), _short(config["env"])
        return f"{command} of {env}, seed {config.get('seed')}, {state}"

    @property
    def config(self) -> RunConfig:
        """What ``config.json`` holds.

        Raises:
            RunError: if it is damaged; the message names the field.
        """
        found = read_record(self.path / CONFIG, RunConfig, error=RunError, limit=LARGEST)
        return cast("RunConfig", with_present_names(found))

    @property
    def metrics(self) -> RunMetrics:
        """What ``metrics.json`` holds.

        Raises:
            RunError: if it is damaged; the message names the field.
        """
        found = read_record(self.path / METRICS, RunMetrics, error=RunError, limit=LARGEST)
        missing = [name for name in OF_FINE_TUNING if name not in found]
        if missing and ("before" in found or "after" in found):
            raise RunError(f"{self.path / METRICS}: {missing[0]} is missing")
        return found

    def write_config(self, command: str, settings: Mapping[str, Any]) -> None:
        """Write ``config.json``."""
        write_json(self.path / CONFIG, {"command": command, **settings, "made_with": made_with()})

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write ``metrics.json``, drop what resuming needed and the lock; NaN and infinity become null.

        The digest of the saved weights is added, by which later commands notice other ones.
        """
        policy = self.path / POLICY_META
        saved = read_record(policy, dict[str, Any], error=RunError, limit=LARGEST) if policy.exists() else {}
        weights = {"weights": saved["weights"]} if "weights" in saved else {}
        write_json(self.path / METRICS, finite(metrics) | weights)
        shutil.rmtree(self.path / CANDIDATES, ignore_errors=True)
        for name in STATES:
            (self.path / name).unlink(missing_ok=True)
        self._settle()
        self.close()

    def clear(self) -> None:
        """Delete the files of a run and nothing else, ``config.json`` last: half-cleared, it is still one."""
        for name in RUN_FILES:
            (self.path / name).unlink(missing_ok=True)
        for name in RUN_FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        (self.path / CONFIG).unlink(missing_ok=True)

    def _keeps_something(self) -> bool:
        """Return whether the run has something to resume or to use."""
        return any((self.path / name).exists() for name in KEEPING)

    @property
    def _earlier(self) -> RunFolder:
        """The run that this one replaces, if there is one."""
        return RunFolder(self.path / EARLIER)

    def _set_earlier_aside(self) -> None:
        """Move the run of the folder aside, ``config.json`` last: without it, the move was not whole.

        Where a finished one is aside already, it stays there, and the run of the folder is deleted.
        """
        place = self._earlier.path
        if self._earlier.exists():
            self.clear()
            return
        if place.is_dir():
            found = ", ".join(sorted(file.name for file in place.iterdir())[:20])
            raise RunError(
                f"{place} holds {found}, which is of no run, and --overwrite keeps the earlier run there: "
                "move it elsewhere, or choose another folder with --out"
            )
        place.mkdir()
        self._move(self.path, self._earlier.path, (*RUN_FILES, *RUN_FOLDERS, CONFIG))

    def _settle(self) -> None:
        """Delete the run set aside if the new one replaces it, put it back if that has nothing to keep.

        It holds wherever a process was killed: a run is set aside with its ``config.json`` last, put back
        with it first, and deleted with it last. Files that are of no run stay where they are.
        """
        earlier = self._earlier
        if not earlier.path.is_dir():
            return
        if earlier.exists() and self._keeps_something():
            if not self.exists():
                raise RunError(
                    f"{self.path} holds files of a run without {CONFIG}, and {earlier.path} the run that was "
                    "there before: move one of them to another folder"
                )
            if earlier.finished() and not self.finished():
                return
            earlier.clear()
        else:
            if earlier.exists():
                self.clear()
            self._move(earlier.path, self.path, (CONFIG, *RUN_FILES, *RUN_FOLDERS))
        if not any(earlier.path.iterdir()):
            earlier.path.rmdir()

    @staticmethod
    def _move(source: Path, target: Path, names: Sequence[str]) -> None:
        for name in names:
            if (source / name).exists():
                (source / name).replace(target / name)

    def _acquire(self) -> None:
        """Take the lock, and delete what a process that was killed left half written."""
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunInUseError(
                f"another process works on the run in {self.path} now: wait until it ends, or choose another "
                "folder"
            ) from None
        self._lock = lock
        for name in (CONFIG, METRICS, *STATES, POLICY, POLICY_META, IDS, LOG, CURVE):
            remove_temporaries(self.path / name)
        try:
            self._settle()
        except BaseException:
            self.close()
            raise


def check_no_run(path: str | os.PathLike[str]) -> None:
    """Refuse a folder in which a training would replace the files of a run, or that is a data set's.

    Raises:
        RunError: naming them.
    """
    if Path(path).is_file():
        raise RunError(f"{path} is a file; a run needs a folder")
    run = RunFolder(path)
    run.recover()
    check_no_data_set(run.path)
    found = files_of_a_run(run.path) + [CONFIG] * run.exists()
    if set(found) <= {LOG, TENSORBOARD} and is_empty_log(run.path / LOG):
        return
    if found:
        raise RunError(
            f"{path} holds {', '.join(found)} of a run, which would be replaced: choose another folder, or "
            "pass overwrite=True"
        )


def _neighbours(path: Path) -> str:
    """Name the runs beside a missing folder."""
    if not path.parent.is_dir():
        return f": there is no folder {str(path.parent)!r} either"
    runs = sorted(p.name for p in path.parent.iterdir() if (p / CONFIG).exists())
    return f". Runs in {str(path.parent)!r}: {', '.join(runs)}." if runs else ""


def _short(text: str) -> str:
    """Return the text of a file for a message, of bounded length."""
    return text if len(text) <= 80 else text[:77] + "..."
