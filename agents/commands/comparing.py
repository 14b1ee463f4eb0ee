"""``refit compare``, its work: runs what is missing of a study, prints its progress and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.commands.compare import Compare
from agents.commands.comparing_settings import with_tuned
from agents.commands.target import note_other_sets, reward_named
from agents.console import print_json, say
from agents.experiments.cells import Outcome, run_cells
from agents.experiments.plan import plan
from agents.experiments.ray_cells import ray_tasks
from agents.experiments.records import Cell, other_commits, read_cell, read_records, unfinished
from agents.experiments.report import draw, find, report, write_report
from agents.experiments.row_groups import read_row_groups, write_row_groups
from agents.experiments.shipped import study_path
from agents.experiments.spec import FINETUNE
from agents.experiments.study import Study, read_study, with_budget
from agents.experiments.tables import TextTable, print_table
from agents.training.tensors import resolve_device
from refit_env.data.home import check_available
from refit_env.errors import DataError
from refit_env.evaluation.intervals import ends_in_words
from refit_env.rewards import short_name
from refit_env.utils.user_code import absolute_place, is_place


def run(command: Compare) -> int:
    """Run what is missing of a study, then print the tables, draw the curves and write the report.

    Args:
        command: the options.

    Returns:
        The exit code: 1 if a cell failed.
    """
    study = read_study(study_path(command.study))
    study = study if command.steps is None else with_budget(study, command.steps)
    study = study if command.reward_file is None else with_reward(study, command.reward_file)
    study = study if command.settings is None else with_tuned(study, command.settings, command.env)
    device = "cpu" if command.finished else str(resolve_device(command.device))
    records = records_of(command, study.name)
    cells = plan(
        study,
        records,
        env_ids=command.env,
        models=names_in(command.models),
        variants=variants_of(command),
        seeds=command.seeds,
        device=device,
        large=command.finished or device != "cpu",
    )
    note_other_sets(list(dict.fromkeys(cell.settings["env"] for cell in cells)))
    progress = Progress(cells, records, redo=command.redo, finished=command.finished)
    failed = progress.run(command)
    found = [read_cell(records, cell, stale=command.finished) for cell in cells]
    results = [record for record in found if record is not None]
    if results or command.finished:
        content = _report(command, study, results, records, progress.stale_note())
        show(content, records.with_suffix(".json"), json=command.json)
    return progress.end(failed)


def records_of(command: Compare, name: str) -> Path:
    """The file of a study's records; a whole path where other machines read it, too."""
    out = Path("runs") / f"compare-{name}" if command.out is None else command.out
    if out.is_file():
        raise ValueError(f"--out {out} is a file; the records need a folder")
    return (out.resolve() if command.engine == "ray" else out) / f"{name}.jsonl"


def variants_of(command: Compare) -> list[str]:
    """The variants that are run; all usual ones if none. One's own reward is one of them."""
    names = names_in(command.variants)
    own = [] if command.reward_file is None else [short_name(command.reward_file)]
    return list(dict.fromkeys(names + own)) if names else []


def with_reward(study: Study, place: str) -> Study:
    """The study with a user's reward as one more variant.

    Raises:
        ValueError: if there is no such reward, it has the name of a variant, or nothing is fine-tuned.
    """
    reward_named(place)
    if not is_place(place):
        raise ValueError(f"--reward-file {place}: must read FILE.py:NAME or package.module:NAME")
    name = short_name(place)
    first = next((variant for variant in study.variants if variant.make == FINETUNE), None)
    if first is None:
        raise ValueError(f"--reward-file: {study.name} fine-tunes nothing")
    if name in [variant.key for variant in study.variants]:
        raise ValueError(f"--reward-file {place}: {study.name} has a variant {name!r} already: rename yours")
    env = {**first.env, "reward": absolute_place(place), "reward_kwargs": {}}
    own = replace(first, key=name, title=name, env=env, settings_of=first.key, settings={}, usual=True)
    return replace(study, variants=(*study.variants, own))


def _report(
    command: Compare, study: Study, results: Sequence[dict[str, Any]], records: Path, stale: str
) -> dict[str, Any]:
    """Make the report, write it and draw the curves; ``stale`` ends the note."""
    shown = tuple(also for also in study.also if not command.env or also.environment in command.env)
    study = replace(study, also=shown)
    wanted = dict.fromkeys(also.study for also in shown)
    others = {name: list(read_records(records.with_name(f"{name}.jsonl")).values()) for name in wanted}
    for name, rows in others.items():
        if not rows:
            where = records.with_name(f"{name}.jsonl")
            say(f"rows of the study {name} are not shown: there is no {where}", stderr=True)
    write_row_groups(records.parent, [*results, *(record for rows in others.values() for record in rows)])
    found = find(study, results, others, records, read_row_groups(records.parent))
    if not found.groups:
        raise ValueError(f"--finished: nothing is finished in {records}; leave it out to run the cells")
    content = report(found, typed(command))
    content["note"] += stale
    if (figure := draw(found, records.with_suffix(".png"))) is not None:
        content["figure"] = figure
    write_report(records.with_suffix(".json"), content)
    return content


def typed(command: Compare) -> str:
    """The words that make a report again."""
    words = ["refit compare", command.study]
    words += ["--env", *dict.fromkeys(command.env)] if command.env else []
    words += ["--settings", str(command.settings)] if command.settings is not None else []
    words += ["--models", command.models] if command.models else []
    words += ["--variants", command.variants] if command.variants else []
    words += ["--reward-file", command.reward_file] if command.reward_file else []
    words += ["--seeds", str(command.seeds)] if command.seeds is not None else []
    words += ["--steps", str(command.steps)] if command.steps is not None else []
    words += ["--device", command.device] if command.device != "cpu" else []
    return " ".join(words)


def names_in(text: str) -> list[str]:
    """Comma-separated names."""
    return [name.strip() for name in text.split(",") if name.strip()]


class Progress:
    """Prints a line for each cell that ends, to the standard error.

    Attributes:
        stale: cells whose records are not what would be measured now.
    """

    def __init__(
        self, cells: Sequence[Cell], records: Path, *, redo: bool = False, finished: bool = False
    ) -> None:
        """Count what is finished already, and name what is stale.

        Args:
            cells: of the study.
            records: the file of its records.
            redo: whether stale cells are measured again.
            finished: whether nothing is to run, and stale cells are shown as they are.

        Raises:
            CellError: a line for each stale cell, unless one of the two is chosen.
        """
        self._cells, self._records, self._total = cells, records, len(cells)
        self._redo, self._finished = redo, finished
        there = {cell.key for cell in cells} & read_records(records).keys()
        unfit = unfinished(cells, records, redo=redo or finished, absent=not finished)
        missing = {cell.key for cell in unfit}
        self.stale = len(there & missing)
        self._done = there if finished else there - missing
        say(f"{self._total} cells, {len(self._done)} finished already", stderr=True)
        if self.stale:
            what = "shown as recorded" if finished else "measured again"
            say(f"{self.stale} stale cells: {what}", stderr=True)
        if others := other_commits(cells, records):
            say(others, stderr=True)

    def run(self, command: Compare) -> dict[str, str]:
        """Run what is missing, if anything is to run; the errors of the cells that failed, by key.

        Cells whose data are not on this machine fail at once, without a process, where they would run on it.
        """
        if self._finished:
            return {}
        lost = {} if command.engine == "ray" else self._without_data()
        gpu = str(resolve_device(command.device)) != "cpu"
        with ray_tasks(command.workers, gpu=gpu) if command.engine == "ray" else nullcontext() as engine:
            return lost | run_cells(
                [cell for cell in self._cells if cell.key not in lost],
                self._records,
                workers=command.workers,
                on_end=self.print_outcome,
                redo=self._redo,
                engine=engine,
            )

    def _without_data(self) -> dict[str, str]:
        """What is wrong with the data of the cells that are to run, by key; one line for each data set."""
        waiting = [cell for cell in self._cells if cell.key not in self._done]
        out: dict[str, str] = {}
        for name in dict.fromkeys(cell.data for cell in waiting):
            try:
                check_available(name)
            except DataError as error:
                out |= {cell.key: str(error) for cell in waiting if cell.data == name}
        return out

    def stale_note(self) -> str:
        """A line of a table's note on the stale cells that it shows; empty where there are none."""
        if not (self._finished and self.stale):
            return ""
        return (
            f"\n{self.stale} of its cells are stale: made with other settings than those of now, or before "
            "the data's fingerprint was recorded."
        )

    def print_outcome(self, outcome: Outcome) -> None:
        """One line: which cell, its NDCG@20 and gain, its seconds and memory; or its error."""
        cell = outcome.cell.key.replace("_", " ")
        if outcome.result is None:
            trace = outcome.cell.error_path(self._records)
            where = f" (traceback: {trace})" if trace.exists() else ""
            say(f"FAILED {cell}: {outcome.error}{where}", stderr=True)
            return
        self._done.add(outcome.cell.key)  # a start whose weights are gone is made again
        result = outcome.result
        ndcg, over = result[result["split"]]["ndcg@20"], _gain(result)
        valid = f"valid {result['valid']['ndcg@20']:.4f}, " if "valid" in result else ""
        say(
            f"[{len(self._done)}/{self._total}] {cell}: {result['split']} NDCG@20 {ndcg:.4f}{over}, "
            f"{valid}{outcome.seconds:.0f} s, "
            f"{result['cost']['peak_memory_mib']:.0f} MiB",
            stderr=True,
        )

    def end(self, failed: Mapping[str, str]) -> int:
        """Name the cells that failed, a line for each error; the exit code."""
        for error in dict.fromkeys(failed.values()):
            first, *others = [key for key, its in failed.items() if its == error]
            more = f" and {len(others)} more" if others else ""
            say(f"failed: {first}{more}: {error}", stderr=True)
        if failed:
            say(f"{len(failed)} of {self._total} cells failed; run the command again to retry", stderr=True)
        return 1 if failed else 0


def _gain(result: Mapping[str, Any]) -> str:
    """Return the gain of a model over its parent, with its interval over users."""
    over = (result.get("over_parent") or {}).get("ndcg@20")
    if over is None:
        return ""
    return f" ({over['mean_difference']:+.4f}, users {ends_in_words(over['low'], over['high'])})"


def show(report: Mapping[str, Any], path: Path, *, json: bool) -> None:
    """Print a report's tables, or the report as JSON and nothing else."""
    if json:
        print_json(report)
        return
    for table in report["tables"]:
        rows = tuple(tuple(row) for row in table["rows"])
        print_table(TextTable(table["title"], tuple(table["columns"]), rows, note=table.get("note", "")))
    say(report["note"])
    drawn = f", {path.with_name(report['figure'])}" if "figure" in report else ""
    say(f"{path}{drawn}")
