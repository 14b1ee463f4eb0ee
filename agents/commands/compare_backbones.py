"""``refit compare backbones``: what fine-tuning adds to each recommender, on each environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from agents.commands.common import note_other_sets
from agents.commands.comparing import RESULT, Progress, show
from agents.commands.options import Flag, RepeatsOption, Workers
from agents.experiments.backbone_tables import (
    grouped,
    model_table,
    note,
    slice_table,
    summarise,
)
from agents.experiments.backbones import NEEDS, PRETRAINED, ROWS, TWELVE, device_of, plan, whose
from agents.experiments.budgets import units_of
from agents.experiments.claims import claims_table
from agents.experiments.judging import read_results
from agents.experiments.provenance import sources
from agents.runs.hardware import machine_of
from agents.training.tensors import resolve_device
from refit_env.errors import unknown_name
from refit_env.settings import Bounded
from refit_env.utils.atomic_io import write_json


@dataclass(frozen=True, kw_only=True)
class Backbones(Bounded):
    """Pretrain recommenders, fine-tune them by REINFORCE, and train them further for as much work.

    Each (environment, model, row, seed) is a cell: a process of its own, one JSON file under ``OUT/cells``.
    Finished cells are skipped, so an interrupted comparison goes on where it was, and one that is finished
    only prints its tables again. Exit code 1 says that a cell failed; it is tried again the next time.
    """

    env: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID [ID ...]")] = TWELVE
    """Environment ids; the twelve of the paper unless told otherwise."""
    models: str = ""
    """Comma-separated models; all that ``agents.hyperparams.backbones`` names if left out."""
    rows: str = ""
    """Comma-separated rows: ``pretrained``, ``reinforce``, ``elbo`` and, where a model is the reward,
    ``distill`` and ``reward``; all if left out."""
    seeds: RepeatsOption = None
    """How many runs of each, from seed 0; each environment's own number (3 or 5) unless told otherwise."""
    workers: Workers = 2
    """Cells that run at once, one thread each."""
    device: str = "cpu"
    """Where cells run: ``cpu``, ``cuda`` or ``auto``. On a GPU the models that are too large for a CPU are
    compared, too."""
    out: Path = Path("runs/compare-backbones")
    """Folder for cells, checkpoints and ``comparison.json``."""
    finished: Flag = False
    """Run nothing; the tables of what is finished, stale cells included, which the note then counts."""
    redo: Flag = False
    """Measure stale cells again: those made with other settings, or on other data, than now."""
    json: Flag = False
    """Print the result as JSON, and nothing else, to the standard output."""

    def run(self) -> int:
        """Run what is missing, then print the tables and write the result."""
        models = [name.strip() for name in self.models.split(",") if name.strip()]
        device = "cpu" if self.finished else str(resolve_device(self.device))
        cells = plan(
            self.env,
            self.out,
            models=models,
            rows=choose_rows(self.rows),
            seeds=self.seeds,
            device=device,
            large=self.finished or device != "cpu",
        )
        note_other_sets(self.env)
        progress = Progress(cells, self.out, _gain, redo=self.redo, finished=self.finished)
        failed = progress.run(self.workers)
        results = list(read_results(cells, self.out, PRETRAINED, whose, stale=self.finished).values())
        if self.finished and not results:
            raise ValueError(f"--finished: nothing is finished in {self.out}; leave it out to run the cells")
        if results:
            show(self._report(results, progress.stale_note()), self.out, json=self.json)
        return progress.end(failed)

    def _report(self, results: Sequence[dict[str, Any]], stale: str) -> dict[str, Any]:
        """Make the result and write it; ``stale`` ends the note."""
        summary, on_gpu = summarise(grouped(results)), all(map(_on_gpu, results))
        report = {
            "title": "Backbones, compared" + (" on a GPU" if on_gpu else ""),
            "command": self.command("cuda" if on_gpu else self.device),
            "note": note({machine_of(r)["gpu"] for r in results if _on_gpu(r)}, units_of(results)) + stale,
            "readme": True,
            "tables": [table(summary).to_json() for table in (claims_table, model_table, slice_table)],
            "provenance": sources(results),
            "models": summary,
        }
        write_json(self.out / RESULT, report)
        return report

    def command(self, device: str) -> str:
        """The words that make this result again, on a device."""
        envs = tuple(dict.fromkeys(self.env))
        words = ["refit compare backbones"] + (["--env", *envs] if envs != TWELVE else [])
        words += ["--models", self.models] if self.models else []
        words += ["--rows", self.rows] if self.rows else []
        words += ["--seeds", str(self.seeds)] if self.seeds is not None else []
        words += ["--device", device] if device != "cpu" else []
        return " ".join(words)


def choose_rows(names: str) -> list[str]:
    """The rows named, with those that they need, in the table's order; all where none is named.

    Raises:
        ValueError: for an unknown row, with a did-you-mean.

    Example:
        >>> choose_rows("reinforce")
        ['pretrained', 'reinforce']
    """
    wanted = [name.strip() for name in names.split(",")] if names else list(ROWS)
    for name in wanted:
        if name not in ROWS:
            raise unknown_name("row", name, ROWS)
    needed = {need for name in wanted for need in NEEDS[name]} | set(wanted)
    return [name for name in ROWS if name in needed]


def _on_gpu(result: Mapping[str, Any]) -> bool:
    return device_of(result) != "cpu"


def _gain(result: Mapping[str, Any]) -> str:
    """Of a model over the pretrained one, with its interval over users."""
    if result["row"] == PRETRAINED:
        return ""
    over = result["over_pretrained"]["ndcg@20"]
    return f" ({over['mean_difference']:+.4f}, users {over['low']:+.4f} to {over['high']:+.4f})"
