"""One table of this project's ratios, with their targets: ``refit bench``, ``make bench``.

What one process can measure alternately is measured (``benchmarks.bench_parts``), one part of a data set
after the other, each in a process of its own and printed when it is finished. After an interruption the same
command, of the same commit, goes on with what is missing; after the last part all of it is measured anew.
Ratios that need processes of their own, a calm machine or a GPU are read from ``benchmarks/results``; the
last column names each one's command.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.console import say
from agents.experiments.cells import Outcome
from agents.experiments.provenance import commit, data_of_name, sources
from agents.experiments.records import Cell, read_records
from benchmarks.bench_parts import PARTS, part_cell, row
from benchmarks.counting import GROUPS, OTHERS
from benchmarks.harness import RESULTS, finish_cells, report
from benchmarks.workloads import CATALOGUES
from refit_env.errors import DataError, unknown_name
from refit_env.utils.atomic_io import atomic_path

COLUMNS = ("ratio", "found", "target", "met", "detail", "measured by")
PROFILE_COLUMNS = ("an iteration (ndcg), ms of the processor", *GROUPS, OTHERS, "all operations")
HERE = "refit bench"
MEMORY, P99, NOT_MODEL, WHOLE_TRAINING = 1.0122, 100.0, 10.0, 40.0
"""Targets of results that other commands measure."""
TRAINED = {"diffrec": "fine-tuning", "cf-diff": "backbones"}
"""Backbone -> the study whose records have its pretraining and its fine-tuning on ML-1M."""
Rows = list[dict[str, Any]]


def plan(data: Sequence[str], rounds: int, minutes: float) -> list[Cell]:
    """Return the cells: each part of each data set, with an equal share of the time.

    Args:
        data: data sets of ``CATALOGUES``.
        rounds: rounds of measurements, at most.
        minutes: after which no further round begins.
    """
    share = 60.0 * minutes / (len(data) * len(PARTS))
    settings = {"rounds": rounds, "seconds": share, "commit": commit().id}
    real = {name: name if _is_prepared(name) else "" for name in data}
    return [
        Cell(
            f"bench_{name}_{part}",
            part_cell,
            (name, part, rounds, share),
            settings | {"data": real[name], "part": part},
            real[name],
        )
        for name in data
        for part in PARTS
    ]


def _is_prepared(name: str) -> bool:
    """Return whether a data set is in the data home."""
    try:
        return data_of_name(name) is not None
    except DataError:
        return False


def stored(folder: Path) -> Rows:
    """Return the ratios of results that other commands wrote."""
    rows = whole_trainings(folder)

    def read(name: str) -> dict[str, Any]:
        path = folder / f"{name}.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return found

    def add(source: Mapping[str, Any], *args: Any, **more: Any) -> None:
        rows.append(row(*args, **more) | {"command": source["command"]})

    cost = read("fine_tuning_cost")
    for what, ratio in cost.get("memory_over_pretraining", {}).items():
        if not what.endswith("pretraining"):
            add(cost, f"ML-1M: memory, {what}, over pretraining", ratio, MEMORY)
    growth = read("scaling")
    for what, (exponent, low, high) in growth.get("exponents", {}).items():
        interval = f"interval {low:.2f} to {high:.2f}"
        add(growth, f"growth: exponent of {what}", exponent, 1.0, detail=interval, low=low)
    older = read("reinforce_iteration")
    if older:
        add(older, "ML-1M: iteration (score, 16 episodes) over bare products", older["agent_over_bare"], 1.3)
    served = read("serving")
    for cell in served.get("cells", []):
        if cell["clients"] == 8:
            what = f"{cell['model']}: p99 at 8 clients, ms"
            add(
                served,
                what,
                cell["latency"]["p99"],
                P99,
                detail=f"{cell['users_a_second']:.0f} users a second",
            )
            add(served, f"{what}, not the model", cell["rest"]["p99"], NOT_MODEL)
    return rows


def whole_trainings(folder: Path) -> Rows:
    """Return pretraining to its end, with early stopping, over an iteration of fine-tuning, on ML-1M.

    Both are training seconds of a study's cells, validation not counted; the medians over its seeds.

    Args:
        folder: of the studies' records.
    """
    rows: Rows = []
    for backbone, study in TRAINED.items():
        records = read_records(folder / f"{study}.jsonl")
        whole = []
        for key, start in records.items():
            tuned = records.get(key.replace("_pretrained_", "_reinforce_"))
            if not key.startswith(f"ReFiT-ML1M-v0_{backbone}_pretrained_") or tuned is None:
                continue
            iterations = tuned["settings"]["reinforce"]["settings"]["iterations"]
            iteration = tuned["cost"]["training_seconds"] / iterations
            whole.append(start["cost"]["training_seconds"] / iteration)
        if whole:
            detail = f"{len(whole)} seeds, {min(whole):.0f} to {max(whole):.0f}"
            what = f"ML-1M, {backbone}: pretraining to its end over an iteration"
            found = row(what, float(np.median(whole)), WHOLE_TRAINING, least=True, detail=detail)
            rows.append(found | {"command": f"refit compare {study}"})
    return rows


def text(found: Mapping[str, Any]) -> list[str]:
    """Return a ratio as the table has it.

    A ratio above an upper limit that its interval contains is neither met nor missed: ``within``.

    Example:
        >>> text(row("a over b", 1.2, 1.15))
        ['a over b', '1.20', '<= 1.15', 'no', '', 'refit bench']
        >>> text(row("a over b", 1.2, 1.15, low=1.1))[3]
        'within'
    """
    ratio, target, least = found["found"], found["target"], found["least"]
    met = ratio >= target if least else ratio <= target
    digits = 3 if abs(target - round(target, 2)) > 1e-9 else 2
    limit = f"{'>=' if least else '<='} {target:g}"
    contains = not least and found.get("low", ratio) <= target
    yes = "yes" if met else "within" if contains else "no"
    return [found["what"], f"{ratio:.{digits}f}", limit, yes, found["detail"], found.get("command", HERE)]


def profiles(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the rows of the table of where an iteration's time goes."""
    return [
        [label, *(f"{1000 * seconds[name]:.1f}" for name in (*GROUPS, OTHERS)), f"{1000 * total:.1f}"]
        for record in records
        for label, seconds in record.get("profile", {}).items()
        for total in [sum(seconds.values())]
    ]


def earlier_profiles(folder: Path) -> list[list[str]]:
    """Return such rows of the code before the work on an iteration's speed (``benchmarks.before``)."""
    path = folder / "before.json"
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    measured = stored.get("measured", {})
    labels = {
        f"{name}, before ({stored['commit']})": one["before"]["profile"] for name, one in measured.items()
    }
    return profiles([{"profile": labels}])


def markdown(rows: Sequence[Sequence[str]], profile: Sequence[Sequence[str]], note: str) -> str:
    """Return the tables as a Markdown page."""

    def table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
        head = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        return [*head, *("| " + " | ".join(line) + " |" for line in cells)]

    lines = ["# Ratios and their targets", "", f"Written by `make bench`. {note}", "", *table(COLUMNS, rows)]
    if profile:
        lines += ["", "## Where an iteration's time goes", "", *table(PROFILE_COLUMNS, profile)]
    return "\n".join(lines) + "\n"


def measure(
    data: Sequence[str],
    rounds: int = 5,
    minutes: float = 10.0,
    out: Path | None = None,
    write: Path | None = None,
    quiet: bool = False,
) -> Path:
    """Measure, print the table, write ``bench.json`` and a page.

    Args:
        data: data sets of ``CATALOGUES``; synthetic ones of their size where they are absent.
        rounds: rounds of measurements, the best of which counts.
        minutes: after which no further round begins; every part makes at least one.
        out: folder of the result file; None is ``benchmarks/results``.
        write: Markdown page to write; None writes none.
        quiet: print nothing.

    Returns:
        The result file.

    Raises:
        ValueError: for an unknown data set.
    """
    for name in data:
        if name not in CATALOGUES:
            raise unknown_name("data set of the benchmarks", name, CATALOGUES)
    folder = RESULTS if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    records, cells = folder / "bench.jsonl", plan(data, rounds, minutes)
    finish_cells(cells, records, redo=True, on_end=_printer(quiet))
    every = read_records(records)
    found = [every[cell.key] for cell in cells]
    rows = [text(each) for record in found for each in record["rows"]] + [
        text(each) for each in stored(RESULTS)
    ]
    profile = [*profiles(found), *earlier_profiles(RESULTS)]
    used = sum(record["processor"] for record in found)
    note = (
        f"Best of at most {rounds} rounds, CPU seconds of one thread; all measurements took {used:.0f} s of "
        "a processor. Rows of other commands are as they were stored. Met `within`: the ratio is above the "
        "target, its 95 % interval contains it."
    )
    path = report(
        "bench",
        title="Ratios and their targets",
        command=HERE,
        columns=COLUMNS,
        rows=rows,
        note=note,
        folder=folder,
        quiet=quiet,
        provenance=sources(found),
        profile={"columns": list(PROFILE_COLUMNS), "rows": profile},
        seconds={record["key"]: record["seconds"] for record in found},
    )
    if write is not None:
        with atomic_path(write) as temporary:
            temporary.write_text(markdown(rows, profile, note), encoding="utf-8")
    records.unlink()  # the next call measures anew
    return path


def _printer(quiet: bool) -> Callable[[Outcome], None]:
    """Return what prints the ratios of a part when it is finished."""

    def show(outcome: Outcome) -> None:
        for each in () if quiet or outcome.result is None else outcome.result["rows"]:
            what, ratio, target, met, *_ = text(each)
            say(f"{what}: {ratio} (target {target}, {'met' if met == 'yes' else 'not met'})")

    return show
