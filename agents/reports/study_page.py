"""The page of a study: levels by variant, curves, gains by user, fronts, tables, and sources."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from agents.experiments.figures import seed_curves
from agents.experiments.frontier import POST_HOC, TUNED
from agents.experiments.frontier_areas import ON_TOP
from agents.experiments.fronts import FLOOR, direction
from agents.experiments.per_user import unpack
from agents.experiments.provenance import sources
from agents.experiments.records import read_records
from agents.experiments.row_groups import FILE as ROW_GROUPS
from agents.experiments.shipped import shipped
from agents.reports.measured import histogram
from agents.reports.page import render
from agents.reports.svg import Chart, Line, bar_chart, interval_chart, line_chart, scatter
from agents.runs.files import CONFIG, RunError
from refit_env.errors import DataError
from refit_env.evaluation.ranking import metric_title
from refit_env.evaluation.statistics import mean_interval
from refit_env.utils.atomic_io import read_json

METRIC = "ndcg@20"
"""What levels and curves show."""
RECORDS, REPORT = ".jsonl", ".json"
"""Ends of the names of a study's files."""
MOST_LINES = 6
"""Lines of a chart of curves: as many as there are colours."""
LEVELS = "Means over seeds; lines are 95 % intervals over seeds (Student's t), where there are several."
CURVES = "Means over seeds; bands are from the lowest seed to the highest."
"""What is said above the charts of levels and of curves."""
START = "start"
KINDS = ("re-ranking", "fine-tuning, re-ranked", "supervised", "fine-tuning", START)
"""Kinds of points of a study of fronts; later ones are drawn over earlier ones."""
Record = Mapping[str, Any]
Groups = dict[str, dict[str, list[Record]]]
"""Environment -> variant -> records in order of their seeds."""


@dataclass(frozen=True, eq=False)
class StudyFiles:
    """What ``refit compare`` left of a study.

    Attributes:
        records: path of ``STUDY.jsonl``.
        found: its records.
        report: content of ``STUDY.json``; None where there is none yet.
    """

    records: Path
    found: Sequence[Record]
    report: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """The study's name."""
        return self.records.stem


def study_records(path: Path) -> Path | None:
    """Return the file of a study's records: the path itself, or the one in a folder; None for no study.

    Args:
        path: of the folder or a file; or a shipped study's name, for the folder that ``refit compare`` writes
            without ``--out``.

    Raises:
        RunError: if a folder holds those of several studies, or the study that is named has none.
    """
    if str(path) in shipped() and not path.exists():
        name, path = path, Path("runs") / f"compare-{path}"
        if not path.exists():
            raise RunError(
                f"study {str(name)!r} has no records: 'refit compare {name}' writes them to {path}"
            )
    if path.suffix in (RECORDS, REPORT) and path.is_file():
        records = path.with_suffix(RECORDS)
        return records if records.exists() else None
    if not path.is_dir() or (path / CONFIG).exists():
        return None
    found = sorted(one for one in path.glob(f"*{RECORDS}") if one.name != ROW_GROUPS)
    if len(found) > 1:
        names = ", ".join(str(one) for one in found[:8])
        raise RunError(f"{path} holds the records of {len(found)} studies; name one: {names}")
    return found[0] if found else None


def read_study_files(records: Path) -> StudyFiles:
    """Read the records of a study and its report.

    Raises:
        DataError: if there is no record, or a file is damaged.
    """
    found = [record for record in read_records(records).values() if "env" in record and "variant" in record]
    if not found:
        raise DataError(f"{records}: holds no finished cell of a study")
    place = records.with_suffix(REPORT)
    report = read_json(place) if place.exists() else None
    if report is not None and not (isinstance(report, dict) and isinstance(report.get("tables"), list)):
        raise DataError(f"{place}: is no report of a study: tables are missing")
    return StudyFiles(records, found, report)


def study_page(files: StudyFiles) -> tuple[str, str]:
    """Return the page of a study, and its result in a sentence."""
    report = files.report or {}
    groups = grouped(files.found)
    sentence = result_of(groups)
    notes = [] if files.report else [f"There is no {files.name}{REPORT}: the study is not finished."]
    parts = [
        _part("levels", "Levels", levels(groups), LEVELS),
        _part("curves", "Learning curves", curves(groups), CURVES),
        _part("users", "Gain by user", gains(groups)),
        _part("fronts", "Fronts", fronts(files.found)),
        {
            "id": "tables",
            "title": "Tables",
            "about": "",
            "texts": str(report.get("note", "")).splitlines(),
            "charts": [],
            "tables": [_table(table) for table in report.get("tables", ())],
            "command": "",
        },
        {
            "id": "sources",
            "title": "Where the figures come from",
            "about": "",
            "texts": [],
            "charts": [],
            "tables": [_sources(files.found)],
            "command": str(report.get("command", f"refit compare {files.name}")),
        },
    ]
    shown = [part for part in parts if part["charts"] or part["tables"]]
    content = {
        "title": str(report.get("title", files.name)),
        "kind": "Report of a study",
        "sentences": [sentence] if sentence else [],
        "notes": notes,
        "links": [(part["title"], part["id"]) for part in shown],
        "overview": None,
        "runs": [],
        "parts": shown,
    }
    return render(content), sentence


def grouped(records: Sequence[Record]) -> Groups:
    """Return the records by environment and variant, of each environment's first model."""
    models: dict[str, str] = {}
    out: Groups = {}
    for record in records:
        if "points" in record or "goals" in record:  # of a study of fronts, which has no levels
            continue
        if models.setdefault(record["env"], record.get("model", "")) == record.get("model", ""):
            out.setdefault(record["env"], {}).setdefault(record["variant"], []).append(record)
    for variants in out.values():
        for runs in variants.values():
            runs.sort(key=lambda record: int(record["seed"]))
    return out


def result_of(groups: Groups) -> str:
    """Return the highest variant of each environment in a sentence."""
    words = []
    for env, variants in groups.items():
        means = {
            name: float(np.mean(values))
            for name, runs in variants.items()
            if (values := [run[run["split"]][METRIC] for run in runs if METRIC in run.get(run["split"], {})])
        }
        if len(means) > 1:
            best = max(means, key=lambda name: means[name])
            words.append(f"{best} on {env} ({means[best]:.4f}, {len(variants[best])} seeds)")
    if not words:
        return ""
    more = f", and {len(words) - 4} more" if len(words) > 4 else ""
    return f"Highest mean {metric_title(METRIC)}: {'; '.join(words[:4])}{more}."


def levels(groups: Groups) -> list[Chart]:
    """Return the level of each variant with its interval over seeds, a chart an environment."""
    out = []
    for env, variants in groups.items():
        rows = []
        for name, runs in variants.items():
            values = [run[run["split"]][METRIC] for run in runs if METRIC in run.get(run["split"], {})]
            if values:
                found = mean_interval(values)
                rows.append((name, found.mean, found.low, found.high))
        rows.sort(key=lambda row: -row[1])
        if len(rows) > 1:
            split = next(iter(variants.values()))[0]["split"]
            chart = interval_chart(env, rows, xlabel=f"{split} {metric_title(METRIC)}")
            out += [chart] if chart else []
    return out


def curves(groups: Groups) -> list[Chart]:
    """Return learning curves of validation, a chart an environment; bands are the range of the seeds."""
    name, out = f"valid/{METRIC}", []
    for env, variants in groups.items():
        lines: list[Line] = []
        for variant, runs in variants.items():
            if len(lines) == MOST_LINES or not all(_has_curve(run, name) for run in runs):
                continue
            steps, seeds = seed_curves(runs, name)
            band = (
                [min(each) for each in zip(*seeds, strict=True)],
                [max(each) for each in zip(*seeds, strict=True)],
            )
            mean = [float(np.mean(each)) for each in zip(*seeds, strict=True)]
            lines.append(
                Line(variant, steps, mean, f"c{(len(lines) + 1) % 6}", band if len(seeds) > 1 else None)
            )
        chart = line_chart(f"{env}: validation {metric_title(METRIC)}", lines, xlabel="environment steps")
        out += [chart] if chart else []
    return out


def gains(groups: Groups) -> list[Chart]:
    """Return how many users gain what in the variant of each environment that is highest over its parent."""
    out = []
    for env, variants in groups.items():
        best: tuple[float, str, str, Any] | None = None
        for variant, runs in variants.items():
            parent = next((_parent(run) for run in runs if _parent(run)), "")
            change = _mean_change(variants.get(parent, []), runs)
            if change is not None and (best is None or change.mean() > best[0]):
                best = float(change.mean()), variant, parent, change
        if best is None:
            continue
        _, variant, parent, change = best
        edges, counts = histogram(change)
        half = len(counts) // 2
        chart = bar_chart(
            f"{env}: {variant} over {parent}",
            [f"{(low + high) / 2:+.2f}" for low, high in pairwise(edges)],
            [("users", "c1", [float(count) for count in counts])],
            xlabel=f"change of {metric_title(METRIC)}, mean over seeds",
            ylabel="users",
            colors=["c4"] * half + ["c1"] * half,
            note="Without the users whose lists are as good as before.",
        )
        out += [chart] if chart else []
    return out


def fronts(records: Sequence[Record]) -> list[Chart]:
    """Return the points of a study of fronts: NDCG against each goal, of a place's first seed."""
    found: dict[tuple[str, str], list[tuple[str, str, float, float]]] = {}
    seeds: dict[str, int] = {}
    starts: dict[str, float] = {}
    supervised = {name for record in records for name in record.get("settings", {}).get("supervised", ())}
    for record in records:
        place = record.get("place", record["env"])
        if record.get("points") and seeds.setdefault(place, record["seed"]) == record["seed"]:
            for point in record["points"]:
                kind = _kind(record["variant"], point["method"], supervised)
                ndcg = float(point["test"][METRIC])
                starts |= {place: ndcg} if kind == START else {}
                for goal, value in point["test"].items():
                    if goal != METRIC:
                        row = kind, f"{record['variant']} {point['name']}", ndcg, float(value)
                        found.setdefault((place, goal), []).append(row)
    charts = [
        scatter(
            f"{place}: {goal}" + (" (less is better)" if direction(goal) < 0 else ""),
            sorted(
                (row for row in rows if row[2] >= FLOOR * starts.get(place, 0.0)),
                key=lambda row: KINDS.index(row[0]),
            ),
            xlabel="NDCG@20",
            ylabel=goal,
            note=f"Test, first seed; the points with at least {FLOOR:.0%} of the start's NDCG@20.",
        )
        for (place, goal), rows in found.items()
    ]
    return [chart for chart in charts if chart is not None]


def _kind(variant: str, method: str, supervised: Collection[str]) -> str:
    """Return which of ``KINDS`` a point of a study of fronts is."""
    if method == START:
        return START
    if variant in (POST_HOC, TUNED):
        return "re-ranking"
    if variant in supervised:
        return "supervised"
    return "fine-tuning, re-ranked" if ON_TOP in method else "fine-tuning"


def _has_curve(record: Record, name: str) -> bool:
    """Whether a record holds validation by environment steps."""
    curve = record.get("curve") or {}
    return "steps" in curve and len(curve.get(name, ())) > 1


def _parent(record: Record) -> str:
    """The variant that a record began from; empty for none."""
    own = (record.get("settings") or {}).get(record["variant"])
    return str(own.get("parent") or "") if isinstance(own, Mapping) else ""


def _mean_change(before: Sequence[Record], after: Sequence[Record]) -> Any:
    """(n,) the change of each user, a mean over the seeds that both have; None where it is not recorded."""
    old = {run["seed"]: text for run in before if (text := (run.get("per_user") or {}).get(METRIC))}
    new = {run["seed"]: text for run in after if (text := (run.get("per_user") or {}).get(METRIC))}
    pairs = [(unpack(old[seed]), unpack(new[seed])) for seed in sorted(old.keys() & new.keys())]
    same = [pair for pair in pairs if pair[0].shape == pair[1].shape == pairs[0][0].shape]
    return np.mean([two - one for one, two in same], axis=0) if same else None


def _part(name: str, title: str, charts: Sequence[Chart], about: str = "") -> dict[str, Any]:
    """A section of charts."""
    out: dict[str, Any] = {"id": name, "title": title, "about": about, "charts": list(charts)}
    return out | {"texts": [], "tables": [], "command": ""}


def _table(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table of the study's report."""
    return {name: table.get(name, []) for name in ("title", "columns", "rows")}


def _sources(records: Sequence[Record]) -> dict[str, Any]:
    """Return the commits, commands and data of the cells."""
    found = sources(records)
    rows: list[tuple[str, str]] = [("cells", str(len(records)))]
    rows += [("commit", f"{name} ({count} cells)") for name, count in found["commits"].items()]
    rows += [("processor", f"{name} ({count} cells)") for name, count in found["processors"].items()]
    rows += [("data", f"{name} {', '.join(prints)}") for name, prints in found["data"].items()]
    rows += (
        [("cells without recorded code and data", str(found["unrecorded"]))] if found["unrecorded"] else []
    )
    commands = {made["command"] for one in records if (made := one.get("provenance"))}
    rows += [("command", name) for name in sorted(commands)[:12]]
    return {"title": "Sources of the cells", "columns": ["what", "value"], "rows": rows}
