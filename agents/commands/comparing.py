"""What the comparisons have in common: a line for each cell that ends, failures, tables."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.console import say
from agents.experiments.cells import Outcome, run_cells
from agents.experiments.judging import CELLS
from agents.experiments.records import Cell, other_commits, unfinished
from agents.experiments.tables import TextTable, print_table

RESULT = "comparison.json"
"""What a comparison leaves in its folder, beside the cells."""


class Progress:
    """Prints a line for each cell that ends, to the standard error.

    Attributes:
        stale: cells there that are not what would be measured now.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        out: Path,
        gain: Callable[[Mapping[str, Any]], str],
        *,
        redo: bool = False,
        finished: bool = False,
    ) -> None:
        """Count what is finished already, and name what is stale.

        Args:
            cells: of the comparison.
            out: its folder.
            gain: what a line says of a result's gain; empty for nothing.
            redo: whether stale cells are measured again.
            finished: whether nothing is to run, and stale cells are shown as they are.

        Raises:
            CellError: a line for each stale cell, unless one of the two is chosen.
        """
        self._cells, self._out, self._total, self._gain = cells, out, len(cells), gain
        self._redo, self._finished = redo, finished
        there = sum(cell.path(out / CELLS).exists() for cell in cells)
        self.stale = there - (self._total - len(unfinished(cells, out / CELLS, redo=redo or finished)))
        self._done = there if finished else there - self.stale
        say(f"{self._total} cells, {self._done} finished already", stderr=True)
        if self.stale:
            what = "shown as recorded" if finished else "measured again"
            say(f"{self.stale} stale cells: {what}", stderr=True)
        if others := other_commits(cells, out / CELLS):
            say(others, stderr=True)

    def run(self, workers: int) -> dict[str, str]:
        """Run what is missing, if anything is to run; the errors of the cells that failed, by key."""
        if self._finished:
            return {}
        folder = self._out / CELLS
        return run_cells(self._cells, folder, workers=workers, tell=self.tell, redo=self._redo)

    def stale_note(self) -> str:
        """A sentence of a table's note on the stale cells that it shows; empty where there are none."""
        if not (self._finished and self.stale):
            return ""
        return (
            f" {self.stale} of its cells are older records: made with other settings than those of now, or "
            "before the data's fingerprint was recorded."
        )

    def tell(self, outcome: Outcome) -> None:
        """One line: which cell, its test NDCG@20 and gain, its seconds and memory; or its error."""
        cell = outcome.cell.key.replace("_", " ")
        if outcome.result is None:
            trace = outcome.cell.error_path(self._out / CELLS)
            where = f" (traceback: {trace})" if trace.exists() else ""
            say(f"FAILED {cell}: {outcome.error}{where}", stderr=True)
            return
        self._done += 1
        result = outcome.result
        say(
            f"[{self._done}/{self._total}] {cell}: test NDCG@20 {result['test']['ndcg@20']:.4f}"
            f"{self._gain(result)}, valid {result['valid']['ndcg@20']:.4f}, {outcome.seconds:.0f} s, "
            f"{result['cost']['peak_memory_mib']:.0f} MiB",
            stderr=True,
        )

    def end(self, failed: Mapping[str, str]) -> int:
        """Name the cells that failed; the exit code."""
        for key, error in failed.items():
            say(f"failed: {key}: {error}", stderr=True)
        if failed:
            say(f"{len(failed)} of {self._total} cells failed; run the command again to retry", stderr=True)
        return 1 if failed else 0


def show(report: Mapping[str, Any], out: Path, *, json: bool) -> None:
    """Print a report's tables, or the report as JSON and nothing else."""
    if json:
        print(jsonlib.dumps(report, indent=2))
        return
    for table in report["tables"]:
        rows = tuple(tuple(row) for row in table["rows"])
        print_table(TextTable(table["title"], tuple(table["columns"]), rows))
    say(report["note"])
    drawn = f", {out / report['figure']}" if "figure" in report else ""
    say(f"{out / RESULT}{drawn}")
