"""The page: one HTML file with its style, its script and its data, and nothing from a network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from agents.reports.facts import FINE_TUNING, Facts
from agents.reports.run_sections import ENDS, RunParts, comparison_rows, sections
from agents.reports.svg import Line, interval_chart, line_chart
from agents.runs.plots import column
from refit_env.evaluation.ranking import nearest_metric
from refit_env.utils.atomic_io import atomic_path, finite

TEMPLATES = Path(__file__).resolve().parent / "template"
PAGE = "report.html"
"""Name of the file in the folder of ``--out``."""
LARGEST = 5_000_000
"""Bytes that a page should not exceed."""
PARTS = (
    ("Result", "result"),
    ("Curves", "curves"),
    ("Users", "users"),
    ("Coverage, popularity", "shift"),
    ("Monitors", "monitors"),
    ("Explorer", "explorer"),
    ("Repeat", "settings"),
)
"""Name and id of a run's sections."""
ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""Letters that a script element may not hold, and what replaces them."""


def run_page(runs: Sequence[RunParts]) -> str:
    """Return the page of runs.

    Args:
        runs: on the same data, at least one.
    """
    shown = [sections(run, number) for number, run in enumerate(runs, start=1)]
    for run, parts in zip(shown, runs, strict=True):
        if parts.explorer is not None:
            run["explorer"] = {**parts.explorer, "json": script_json(parts.explorer)}
    if len(runs) == 1:
        links = [(name, f"{shown[0]['id']}-{part}") for name, part in PARTS if has(shown[0], part)]
        title, sentences = (
            shown[0]["title"],
            [shown[0][part] for part in ("sentence", "choice") if shown[0][part]],
        )
    else:
        links = [("Side by side", "overview"), *((run["name"], run["id"]) for run in shown)]
        title = f"{len(runs)} runs on {shown[0]['title'].partition(' on ')[2].partition(',')[0]}"
        sentences = [_best_of(runs)]
    return render(
        {
            "title": title,
            "kind": "Report of a run" if len(runs) == 1 else "Report of runs",
            "sentences": sentences,
            "notes": [],
            "links": links,
            "overview": overview(runs) if len(runs) > 1 else None,
            "runs": shown,
            "parts": [],
        }
    )


def has(run: Mapping[str, Any], part: str) -> bool:
    """Whether a run has a section."""
    needed = {
        "result": run["table"] or run["test"],
        "curves": run["curves"] or run["rewards"],
        "users": run["gains"],
        "shift": run["shift"],
        "monitors": run["rewards"] or run["alarms"],
        "explorer": run["explorer"],
    }
    return bool(needed.get(part, True))


def overview(runs: Sequence[RunParts]) -> dict[str, Any]:
    """The table and the charts of runs side by side."""
    columns = ["run", "algorithm", "reward", "before", "after", "95 % interval of the difference", "alarms"]
    rows, gains = [], []
    lines: list[Line] = []
    for run in runs:
        facts = run.facts
        alarms = "; ".join(f"{alarm.kind} ({alarm.iteration})" for alarm in facts.alarms) or "none"
        rows.append([facts.name, facts.algorithm, facts.reward, *_levels(facts), alarms])
        if facts.config["command"] == FINE_TUNING:
            logged = {n.removeprefix("valid/") for r in facts.rows for n in r if n.startswith("valid/")}
            x, y = column(facts.rows, f"valid/{nearest_metric('ndcg@20', logged)}", facts.step_name)
            lines.append(Line(facts.name, list(x), list(y), f"c{(len(lines) + 1) % 6}"))
        found = facts.metrics.get("paired_bootstrap", {})
        if found:
            one = found[nearest_metric("ndcg@20", found)]
            low, high = (math.nan if one[end] is None else one[end] for end in ENDS)
            gains.append((facts.name, one["mean_difference"], low, high))
    charts = [
        interval_chart("Gain of each run over its start", gains, xlabel="change of test NDCG@20", zero=True),
        line_chart("Validation NDCG", lines),
    ]
    caption = "Test NDCG@20 (of the longest list where a catalogue is smaller) before and after"
    kept = [chart for chart in charts if chart is not None]
    return {"columns": columns, "rows": rows, "caption": caption, "charts": kept}


def _levels(facts: Facts) -> tuple[str, str, str]:
    """Test NDCG before and after, and the interval of the difference, as far as a run has them."""
    found = {row["metric"]: row for row in comparison_rows(facts)}
    row = found.get("NDCG@20", next(iter(found.values()), None))
    if row is not None:
        return row["before"], row["after"], row["interval"]
    test = facts.metrics.get("test", {})
    value = test.get(nearest_metric("ndcg@20", test)) if test else None
    return "", ("" if facts.finished else "unfinished") if value is None else f"{value:.4f}", ""


def _best_of(runs: Sequence[RunParts]) -> str:
    """Which run ended highest, in a sentence."""
    ended = []
    for run in runs:
        after = run.facts.metrics.get("after", {})
        value = after.get(nearest_metric("ndcg@20", after)) if after else None
        if value is not None:
            ended.append((value, run.facts))
    if not ended:
        return "None of these runs is a finished fine-tuning."
    best = max(ended, key=lambda pair: pair[0])[1]
    if len(ended) == 1:
        return f"{best.name}: {best.sentence()}"
    return f"Of {len(ended)} finished fine-tunings, {best.name} ended highest. {best.sentence()}"


def script_json(value: Any) -> Markup:
    r"""Return a value as JSON that is safe inside a script element.

    Example:
        >>> print(script_json({"id": "</script><b>"}))
        {"id":"\u003c/script\u003e\u003cb\u003e"}
    """
    text = json.dumps(finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup("".join(ESCAPED.get(letter, letter) for letter in text))


def render(content: Mapping[str, Any]) -> str:
    """Fill the template; every text is escaped."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    files = {
        name: Markup((TEMPLATES / file).read_text(encoding="utf-8"))
        for name, file in (("style", "page.css"), ("script", "page.js"))
    }
    footer = f"Made by refit-env {metadata.version('refit-env')}. This page needs no network."
    return environment.get_template("page.html.jinja").render(**files, footer=footer, **content)


def write_page(folder: Path, text: str) -> Path:
    """Write the page into a folder, at once; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder / PAGE
