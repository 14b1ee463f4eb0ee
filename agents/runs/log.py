"""The log of a run: TensorBoard events and one row per iteration in ``log.csv``."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from agents.runs.files import LOG, TENSORBOARD
from refit_env.errors import DataError
from refit_env.utils.atomic_io import atomic_path, errors_name
from refit_env.utils.text import shown

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """Write scalars to ``<folder>/tb`` and ``<folder>/log.csv``.

    A log is either begun (an older one in the folder is replaced) or resumed: then the rows after the
    resumed iteration are dropped, so that a killed and resumed run leaves the log of an unbroken one.
    Columns may appear at any time (validation is not run every iteration); a missing value is an
    empty field.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with RunLog(folder, tensorboard=False) as log:
        ...         log.write(1, {"reward": 0.25})
        ...         log.write(2, {"reward": 0.5, "valid/ndcg@20": 0.1})
        ...     read_log(folder)
        [{'iteration': 1.0, 'reward': 0.25}, {'iteration': 2.0, 'reward': 0.5, 'valid/ndcg@20': 0.1}]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        resume_after: int | None = None,
        step_name: str = "iteration",
        tensorboard: bool = True,
    ) -> None:
        """Open the log of a run folder.

        Args:
            folder: the run folder; made if it is not there.
            resume_after: the last iteration whose row is kept; None begins a new log.
            step_name: name of the first column.
            tensorboard: whether to write TensorBoard events as well.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / LOG
        self.step_name = step_name
        self._columns: list[str] = [step_name]
        rows = self._kept_rows(resume_after)
        for row in rows:
            self._columns += [name for name in row if name not in self._columns]
        self._last = int(float(rows[-1][step_name])) if rows else None
        self._rewrite(rows)
        self._file: io.TextIOWrapper | None = self.path.open("a", encoding="utf-8", newline="")
        self._writer: SummaryWriter | None = self._open_tensorboard(resume_after) if tensorboard else None

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        """Log the scalars of one iteration; the row is on disk when this returns.

        Args:
            iteration: greater than the last one written.
            scalars: name -> number. A ``/`` in a name groups plots in TensorBoard.

        Raises:
            ValueError: if the iteration does not grow, or the log is closed.
        """
        if self._file is None:
            raise ValueError(f"the log {self.path} is closed")
        if self._last is not None and iteration <= self._last:
            raise ValueError(f"iteration {iteration} comes after {self._last} in {self.path}")
        fresh = [name for name in scalars if name not in self._columns]
        if fresh:
            self._columns += fresh
            self._file.close()
            self._rewrite(_read_rows(self.path))
            self._file = self.path.open("a", encoding="utf-8", newline="")
        row = {self.step_name: str(iteration)} | {k: repr(float(v)) for k, v in scalars.items()}
        with errors_name(self.path):
            self._file.write(_csv_line([row.get(name, "") for name in self._columns]))
            self._file.flush()
        if self._writer is not None:
            with errors_name(self.folder / TENSORBOARD):
                for name, value in scalars.items():
                    self._writer.add_scalar(name, float(value), iteration)
        self._last = iteration

    def flush(self) -> None:
        """Bring TensorBoard's events to disk, too."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Close both logs; closing twice is harmless."""
        if self._file is not None:
            file, self._file = self._file, None
            with errors_name(self.path):
                file.close()
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with errors_name(self.folder / TENSORBOARD):
                writer.close()

    def __enter__(self) -> RunLog:
        """Return the open log."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the log, whatever happened."""
        self.close()

    def _kept_rows(self, resume_after: int | None) -> list[dict[str, str]]:
        """Return the rows of the log on disk up to ``resume_after``; none of a log that begins."""
        if resume_after is None or not self.path.exists():
            return []
        return [row for row in _read_rows(self.path) if float(row[self.step_name]) <= resume_after]

    def _rewrite(self, rows: Iterable[Mapping[str, str]]) -> None:
        """Replace ``log.csv`` by a header and ``rows``, at once."""
        lines = [self._columns, *([row.get(name, "") for name in self._columns] for row in rows)]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(map(_csv_line, lines)), encoding="utf-8", newline="")

    def _open_tensorboard(self, resume_after: int | None) -> SummaryWriter:
        """Open TensorBoard's writer; events after ``resume_after`` are purged by the reader."""
        from torch.utils.tensorboard import SummaryWriter  # a slow import, paid only by who logs

        folder = self.folder / TENSORBOARD
        if resume_after is None:
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        purge = None if resume_after is None else resume_after + 1
        with errors_name(folder):
            return SummaryWriter(log_dir=str(folder), purge_step=purge, flush_secs=30)


def log_result(
    folder: str | os.PathLike[str],
    settings: Mapping[str, Any],
    metrics: Mapping[str, float],
    values: Mapping[str, npt.NDArray[np.float64]],
) -> None:
    """Add a finished run's settings, results and values of single users to its TensorBoard events.

    Args:
        folder: the run folder.
        settings: of the run, JSON-plain; those of groups are named ``group.name``. TensorBoard's HPARAMS tab
            shows them beside the metrics.
        metrics: the results by name.
        values: name of a histogram -> (n,) one value of each user.
    """
    from torch.utils.tensorboard import SummaryWriter  # a slow import
    from torch.utils.tensorboard.summary import hparams

    shown = {name: _plain(value) for name, value in _flat(settings) if value is not None}
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    place = Path(folder) / TENSORBOARD
    with errors_name(place), SummaryWriter(log_dir=str(place), filename_suffix=".result") as writer:
        assert writer.file_writer is not None  # of an open writer
        for summary in hparams(shown, finite):
            writer.file_writer.add_summary(summary)
        for name, value in finite.items():
            writer.add_scalar(name, value)
        for name, each in values.items():
            writer.add_histogram(name, each)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings without groups: ``agent.learning_rate``."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(value: Any) -> bool | int | float | str:
    """A value that TensorBoard can show."""
    return value if isinstance(value, bool | int | float | str) else str(value)


def read_log(folder: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Read ``log.csv`` of a run folder.

    Returns:
        One dict per row; empty fields are left out. A last row that was cut short (by a kill) is dropped.

    Raises:
        FileNotFoundError: if the folder has no log.
        DataError: if the log is damaged.
    """
    rows = _read_rows(Path(folder) / LOG)
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Whole rows of a log: a row without its line end, or with other than the header's fields, is dropped.

    Raises:
        DataError: for a file that is no text, or a field that is no number; the message names both.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except UnicodeDecodeError:
        raise DataError(f"{path} is damaged: a log is a table of numbers as text") from None
    table = list(csv.reader(line for line in lines if line.endswith("\n")))
    if not table:
        return []
    header = table[0]
    out = []
    for number, row in enumerate(table[1:], start=2):
        if len(row) != len(header):
            continue
        out.append(dict(zip(header, row, strict=True)))
        for name, field in out[-1].items():
            try:
                float(field or 0)  # an empty field is one that was not logged
            except ValueError:
                where = f"{path} line {number}: {name}"
                raise DataError(f"{where} is {shown(field)}, expected a number") from None
    return out


def _csv_line(fields: Sequence[str]) -> str:
    """One line of CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(fields)
    return buffer.getvalue()
