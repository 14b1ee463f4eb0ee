"""Grades by the hash of what was graded, kept in a file of JSON lines that is only appended to."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

from refit_env.utils.atomic_io import errors_name
from refit_env.utils.folders import cache_folder


class Grades:
    """The grades of a file, which is read when the first one is wanted."""

    def __init__(self, path: Path | None = None) -> None:
        """Set the file; None is ``grades.jsonl`` in the user's cache folder."""
        self.path = path or cache_folder() / "grades.jsonl"
        self._known: dict[str, float] | None = None

    @staticmethod
    def key(*parts: str) -> str:
        """Return the key of what is graded.

        Example:
            >>> Grades.key("model", "task", "case") == Grades.key("model", "task", "case")
            True
        """
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def __contains__(self, key: str) -> bool:
        """Return whether a grade is known."""
        return key in self._all()

    def __getitem__(self, key: str) -> float:
        """Return a known grade."""
        return self._all()[key]

    def add(self, grades: Mapping[str, float]) -> None:
        """Keep grades.

        Raises:
            OSError: if the file cannot be written.
        """
        self._all().update(grades)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps({"key": key, "grade": grade}) + "\n" for key, grade in grades.items())
        with errors_name(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(lines)

    def _all(self) -> dict[str, float]:
        """All known grades; lines that cannot be read (a process was killed) are left out."""
        if self._known is None:
            self._known = {}
            if self.path.is_file():
                with errors_name(self.path):
                    lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
                for line in lines:
                    try:
                        found = json.loads(line)
                        grade = float(found["grade"])
                        if math.isfinite(grade) and 0 <= grade <= 10:
                            self._known[str(found["key"])] = grade
                    except (ValueError, KeyError, TypeError):
                        continue
        return self._known
