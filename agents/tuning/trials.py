"""The trials of a study: one line of JSON each, so that a stopped study can be continued."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from agents.runs.files import TRIALS
from refit_env.utils.atomic_io import atomic_path, errors_name, finite, parse_record

BASELINE, CLOSED_FORM, NETWORK, FINE_TUNING = "baseline", "closed form", "pretraining", "fine-tuning"
"""Names for ``Trial.stage``."""


@dataclass(frozen=True)
class Trial:
    """A tried model, and its validation metrics."""

    stage: str
    """``baseline``, ``closed form``, ``pretraining`` or ``fine-tuning``."""
    name: str
    """Name of the baseline or backbone; for a fine-tuning, of its start."""
    settings: dict[str, Any]
    """Its settings."""
    value: float
    """Its score by the rule that selects; higher is better."""
    valid: dict[str, float] = field(default_factory=dict)
    """All validation metrics."""
    seconds: Annotated[float, Meta(ge=0)] = 0.0
    """Wall-clock time."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Further facts: iterations, the selected one, whether time ran out."""

    @property
    def refused(self) -> bool:
        """Whether the data or the settings were refused, so that there is no model; the value is then 0."""
        return "refused" in self.notes


class TrialLog:
    """The trials of a run folder, in order.

    Attributes:
        trials: the trials on disk.
    """

    def __init__(self, folder: Path | str, *, error: type[ValueError] = ValueError) -> None:
        """Read the trials of an earlier session; a truncated last line is dropped.

        Raises:
            ValueError: of the type ``error``, naming the line that is damaged.
        """
        self.path = Path(folder) / TRIALS
        self.trials: list[Trial] = []
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        whole, cut = text.rpartition("\n")[0::2]
        for number, line in enumerate(whole.splitlines(), start=1):
            self.trials.append(parse_record(line, Trial, f"{self.path} line {number}", error=error))
        if cut:
            with atomic_path(self.path) as temporary:
                temporary.write_text(whole + "\n" if whole else "", encoding="utf-8")

    def add(self, trial: Trial) -> None:
        """Append a trial to the file, and write it to disk."""
        line = msgspec.json.encode(finite(asdict(trial))) + b"\n"
        with errors_name(self.path), self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.trials.append(trial)

    def of(self, stage: str, name: str | None = None) -> list[Trial]:
        """Return the trials of a stage, of one name or all."""
        return [t for t in self.trials if t.stage == stage and name in (None, t.name)]

    def best(self, *stages: str, name: str | None = None) -> Trial | None:
        """Return the trial of the stages with the highest value, the first of equals; None without any."""
        found = [t for t in self.trials if t.stage in stages and name in (None, t.name) and not t.refused]
        return max(found, key=lambda trial: trial.value, default=None)

    @property
    def seconds(self) -> float:
        """Return the time of all trials."""
        return sum(trial.seconds for trial in self.trials)
