"""What the comparisons have in common: a line for each cell that ends, failures, tables."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.comparison.cells import Cell, Outcome
from agents.comparison.judging import CELLS
from agents.comparison.tables import TextTable, print_table
from agents.console import say

RESULT = "comparison.json"
"""What a comparison leaves in its folder, beside the cells."""


class Progress:
    """Prints a line for each cell that ends, to the standard error."""

    def __init__(self, cells: Sequence[Cell], out: Path, gain: Callable[[Mapping[str, Any]], str]) -> None:
        """Count what is finished already.

        Args:
            cells: of the comparison.
            out: its folder.
            gain: what a line says of a result's gain; empty for nothing.
        """
        self._out, self._total, self._gain = out, len(cells), gain
        self._done = sum(cell.path(out / CELLS).exists() for cell in cells)
        say(f"{self._total} cells, {self._done} finished already", stderr=True)

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
