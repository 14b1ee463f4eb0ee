"""``refit compare``: methods side by side, on the same environments, checkpoints and budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from agents.commands.common import note_other_sets
from agents.commands.compare_backbones import Backbones
from agents.commands.comparing import RESULT, Progress, show
from agents.commands.options import CountOption, Flag, Repeats, Workers, parse
from agents.experiments.aggregate import by_row, over_environments
from agents.experiments.contest import plan, whose
from agents.experiments.figures import draw_learning_curves
from agents.experiments.judging import read_results
from agents.experiments.provenance import sources
from agents.experiments.rows import BASE, ROWS, choose_rows
from agents.experiments.tables import (
    aggregate_table,
    environment_table,
    note,
    summarise,
)
from refit_env.errors import unknown_name
from refit_env.settings import Bounded
from refit_env.utils.atomic_io import write_json

FIGURE = "curves.png"
"""What the command leaves in ``--out``, beside the cells and the result."""


@dataclass(frozen=True, kw_only=True)
class Algorithms(Bounded):
    """Compare fine-tuning algorithms: same environment, same pretrained checkpoint, same environment steps.

    Each (environment, algorithm, seed) is a cell: a process of its own, one JSON file under ``OUT/cells``.
    Finished cells are skipped, so an interrupted comparison goes on where it was, and one that is finished
    only prints its tables again. Exit code 1 says that a cell failed; it is tried again the next time.
    """

    env: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID [ID ...]")] = ("ReFiT-Synthetic-v0",)
    """Environment ids."""
    algorithms: str = ""
    """Comma-separated rows; those that they need come with them, all usual ones if left out."""
    seeds: Repeats = 3
    """How many runs of each, from seed 0; a seed is one pretrained checkpoint for all algorithms."""
    steps: CountOption = None
    """Environment steps of each run; the environment's own budget unless told otherwise."""
    workers: Workers = 2
    """Cells that run at once, one thread each."""
    out: Path = Path("runs/compare-algorithms")
    """Folder for cells, checkpoints, ``comparison.json`` and ``curves.png``."""
    finished: Flag = False
    """Run nothing; the tables of what is finished, stale cells included, which the note then counts."""
    redo: Flag = False
    """Measure stale cells again: those made with other settings, or on other data, than now."""
    json: Flag = False
    """Print the result as JSON, and nothing else, to the standard output."""

    def run(self) -> int:
        """Run what is missing, then print the tables, draw the curves and write the result."""
        rows, envs = choose_rows(self.algorithms), list(dict.fromkeys(self.env))
        cells = plan(envs, rows, range(self.seeds), self.out, self.steps)
        note_other_sets(envs)
        progress = Progress(cells, self.out, _gain, redo=self.redo, finished=self.finished)
        failed = progress.run(self.workers)
        results = by_row(read_results(cells, self.out, BASE, whose, stale=self.finished))
        if self.finished and not results:
            raise ValueError(f"--finished: nothing is finished in {self.out}; leave it out to run the cells")
        if results:
            show(self._report(results, progress.stale_note()), self.out, json=self.json)
        return progress.end(failed)

    def _report(self, results: dict[str, dict[str, list[Any]]], stale: str) -> dict[str, Any]:
        """Make the result, write it and draw the curves; ``stale`` ends the note."""
        summary = summarise(results)
        tables = [environment_table(env, rows) for env, rows in summary.items()]
        overall = aggregate_table(results)
        tables += [] if overall is None else [overall]
        report = {
            "title": "Algorithms, compared",
            "command": self.command(),
            "note": note(range(self.seeds), results) + stale,
            "readme": True,
            "tables": [table.to_json() for table in tables],
            "provenance": sources(run for rows in results.values() for runs in rows.values() for run in runs),
            "environments": summary,
            "over_environments": over_environments(results),
        }
        try:
            draw_learning_curves(results, self.out / FIGURE)
            report["figure"] = FIGURE
        except ValueError:  # nothing but "no training" is finished yet
            pass
        write_json(self.out / RESULT, report)
        return report

    def command(self) -> str:
        """The words that make this result again."""
        words = ["refit compare algorithms --env", *dict.fromkeys(self.env), "--seeds", str(self.seeds)]
        words += ["--algorithms", self.algorithms] if self.algorithms else []
        words += ["--steps", str(self.steps)] if self.steps is not None else []
        return " ".join(words)


def _gain(result: Mapping[str, Any]) -> str:
    """Of a fine-tuned model over no training, in per cent."""
    if result["row"] == BASE:
        return ""
    ndcg = result["test"]["ndcg@20"]
    before = ndcg - result["over_no_training"]["ndcg@20"]["mean_difference"]
    return f" ({100 * (ndcg / before - 1):+.1f} %)" if before else ""


COMPARISONS: dict[str, tuple[type[Algorithms] | type[Backbones], str]] = {
    "backbones": (Backbones, "what fine-tuning adds to each recommender, on each environment"),
    "algorithms": (Algorithms, "fine-tuning algorithms on the same environments, checkpoints and budgets"),
}
"""What can be compared: name -> command, and what the help says."""


def main(words: Sequence[str]) -> int:
    """Run the comparison that the first word names, with the words that follow it."""
    if not words or words[0] in ("-h", "--help"):
        lines = [f"  {name}  {summary}" for name, (_, summary) in COMPARISONS.items()]
        print(
            "\n".join(
                ["usage: refit compare WHAT [options]", "", *lines, "", "Algorithms: " + ", ".join(ROWS)]
            )
        )
        return 0 if words else 2
    if words[0] not in COMPARISONS:
        raise unknown_name("comparison", words[0], COMPARISONS)
    kind = COMPARISONS[words[0]][0]
    command: Algorithms | Backbones = parse(kind, words[1:], f"refit compare {words[0]}")
    return command.run()
