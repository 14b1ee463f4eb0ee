"""The report of the study of fronts: a table an environment, a sentence, a picture.

Letters: S seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.experiments.frontier import FRONTS, FrontStudy
from agents.experiments.frontier_areas import ALL, ANY, BASE, EACH, ON_TOP, SUPERVISED, TOP, TUNED
from agents.experiments.frontier_job import NDCG
from agents.experiments.fronts import FLOOR, direction, pooled_interval
from agents.experiments.provenance import sources
from agents.experiments.tables import TextTable
from refit_env.evaluation.reranking import RERANKERS
from refit_env.utils.atomic_io import atomic_path

Record = Mapping[str, Any]
NOTE = (
    "An area is what the points on a method's front of validation dominate on test. It is a share of the box "
    f"from {100 * FLOOR:.0f} to 100 % of the start's NDCG@20, and from the start's value of the goal to the "
    "best of all points; it is above 1 where a point has a higher NDCG than the start. Each table has boxes "
    "of its own.\n"
    "'best re-ranker' has the largest area on validation, of those of the start and of a model that was "
    "fine-tuned for NDCG alone ('tuned').\n"
    "'each list' is the front of all of these together, whose lists, like the policy's, do not depend on "
    "other users' lists; 'all' also has the greedy assignments over users, `spread` (online) and `cover`. "
    "'supervised' are fine-tuned without reinforcement learning.\n"
    "Differences are means over seeds; the 95 % interval is from a bootstrap over seeds and, within each, "
    "over users (Bayesian); * marks those above zero.\n"
    "Users who come later are in no training, and each seed draws others; `cover` needs all of them at once "
    "and is left out there."
)
DIFFERENCES = {
    "over_best": "runs less best",
    "over_each": "runs less each list",
    "over_all": "runs less all",
    "top_over_all": "runs, re-ranked, less all",
    "over_supervised": "runs less supervised",
}
"""Key of a record -> heading."""
SUPERVISED_COLORS = ("tab:green", "tab:cyan")
COLORS = ("tab:red", "tab:orange", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "navy", "gold")
MARKS = dict(zip(RERANKERS, "v^sDPo*", strict=True))


def front_report(study: FrontStudy, records: Sequence[Record], command: str) -> dict[str, Any]:
    """Return the report: JSON-plain.

    Args:
        study: whose.
        records: of its cells.
        command: the words that make it again.
    """
    compared = [record for record in records if record["variant"] == FRONTS]
    places = [p for p in study.environments if any(record["place"] == p for record in compared)]
    tables, words = [], []
    for place in places:
        own = [record for record in compared if record["place"] == place]
        rows, above = _rows(study, own)
        seeds = f"{len(own)} seeds" if len(own) > 1 else "1 seed"
        users = round(float(np.mean([record["users"] for record in own])))
        kind = "users who come later" if study.environments[place].later else "all users"
        title = f"{place}: areas of fronts with NDCG@20 ({users} {kind}, {seeds})"
        heads = ["goal", "best re-ranker", "its area", "each list", "all", "runs", "runs, re-ranked"]
        heads += ["supervised"] if "over_supervised" in above else []
        tables.append(
            TextTable(title, (*heads, *(DIFFERENCES[name] for name in above)), tuple(rows)).to_json()
        )
        words.append(_sentence(place, above))
    return {
        "title": study.title,
        "command": command,
        "note": "\n".join(filter(None, (*words, NOTE, study.note.strip()))),
        "tables": tables,
        "provenance": sources(records),
    }


def _rows(study: FrontStudy, records: Sequence[Record]) -> tuple[list[tuple[str, ...]], dict[str, list[str]]]:
    """Return a table's rows, and by difference the goals whose interval is above zero."""
    measured = all("over_supervised" in record["goals"][goal] for record in records for goal in study.goals)
    rows, above = [], {name: list[str]() for name in DIFFERENCES if measured or name != "over_supervised"}
    fronts = (None, EACH, ALL, ANY, TOP, SUPERVISED) if measured else (None, EACH, ALL, ANY, TOP)
    for goal in study.goals:
        found = [record["goals"][goal] for record in records]
        names = [one["best"] for one in found]
        best = max(dict.fromkeys(names), key=names.count)
        mean = [
            f"{np.mean([one['areas'][one['best'] if name is None else name] for one in found]):.3f}"
            for name in fronts
        ]
        cells = []
        for name in above:
            middle, low, high = pooled_interval([one[name] for one in found])
            cells.append(f"{middle:+.3f} [{low:+.3f}, {high:+.3f}]" + (" *" if low > 0 else ""))
            above[name] += [goal] if low > 0 else []
        rows.append((goal, best, *mean, *cells))
    return rows, above


def _sentence(place: str, above: Mapping[str, Sequence[str]]) -> str:
    """Return what an environment's table supports, in words."""
    parts = []
    for name, what in (
        ("over_best", "runs are above the best re-ranker"),
        ("over_each", "above all re-rankers of each list together"),
        ("over_all", "above these and the greedy assignments over users"),
        ("top_over_all", "with re-rankers on their points, above all of them"),
        ("over_supervised", "above the supervised baselines"),
    ):
        if name not in above:
            continue
        goals = ", ".join(goal.partition("@")[0] for goal in above[name]) or "no goal"
        parts.append(f"{what} for {goals}")
    return f"{place}: {'; '.join(parts)}."


def draw_fronts(study: FrontStudy, records: Sequence[Record], path: Path) -> str | None:
    """Draw the points, means over seeds, and write a PNG; returns the file's name, or None without points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    compared = {record["place"] for record in records if record["variant"] == FRONTS}
    places = [place for place in study.environments if place in compared]
    if not places:
        return None
    figure = Figure(
        figsize=(3.1 * len(study.goals) + 0.3, 2.9 * len(places) + 1.0), layout="constrained", dpi=110
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(places), len(study.goals), squeeze=False)
    handles: dict[str, Any] = {}
    for row, place in zip(axes, places, strict=True):
        points = mean_points([record for record in records if record["place"] == place])
        for axis, goal in zip(row, study.goals, strict=True):
            handles |= _draw(axis, study, points, goal)
        name = place.removeprefix("ReFiT-").replace(", ", ",\n")
        row[0].set_ylabel(f"{name}\nNDCG@20 (test)", fontsize=9)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=9, frameon=False
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return path.name


def mean_points(records: Sequence[Record]) -> dict[str, list[dict[str, dict[str, float]]]]:
    """Return method -> points, each with the means over seeds of its metrics on both splits."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        for point in record.get("points", []):
            name = point["name"] if point["method"] != TUNED.strip(" +") else "chosen"
            found.setdefault((point["method"], name), []).append(point)
    out: dict[str, list[dict[str, dict[str, float]]]] = {}
    for (method, _), points in found.items():
        means = {
            split: {m: float(np.mean([p[split][m] for p in points])) for m in points[0][split]}
            for split in ("valid", "test")
        }
        out.setdefault(method, []).append(means)
    return out


def _draw(
    axis: Any, study: FrontStudy, points: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]], goal: str
) -> dict[str, Any]:
    """Draw one pair on a matplotlib ``Axes``; returns handles by the legend's names."""
    handles: dict[str, Any] = {}
    start = points[BASE][0]["test"]
    for method, own in points.items():
        x, y = ([point["test"][name] for point in own] for name in (goal, NDCG))
        near = [n for n in range(len(x)) if y[n] >= 0.97 * FLOOR * start[NDCG]]
        if not near or method in (BASE, TUNED.strip(" +")):
            continue
        x, y = [x[n] for n in near], [y[n] for n in near]
        label, style = _style(study, method)
        (line,) = axis.plot(x, y, **style)
        handles.setdefault(label, line)
    (dot,) = axis.plot([start[goal]], [start[NDCG]], "k+", ms=11, mew=2, zorder=5)
    handles["start"] = dot
    axis.axhline(FLOOR * start[NDCG], color="0.8", lw=0.8)
    if direction(goal) < 0:
        axis.invert_xaxis()
    axis.set_xlabel(f"{goal}{' (less is better)' if direction(goal) < 0 else ''}", fontsize=9)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.2)
    return handles


def _style(study: FrontStudy, method: str) -> tuple[str, dict[str, Any]]:
    """Return the legend's name of a method, and how matplotlib draws its points."""
    kind = method.removeprefix(TUNED).rpartition(ON_TOP)[2]
    run, mark = method.partition(ON_TOP)[0], MARKS.get(kind, "x")
    trained = {"marker": ".", "lw": 1.6, "ms": 6, "zorder": 4}
    if method in study.supervised:
        color = SUPERVISED_COLORS[list(study.supervised).index(method) % len(SUPERVISED_COLORS)]
        return f"supervised {method}", trained | {"ls": "--", "color": color}
    if run in study.runs:
        color = COLORS[list(study.runs).index(run) % len(COLORS)]
        if method == run:
            return f"run {method}", trained | {"ls": "-", "color": color}
        dots = {"ls": "", "marker": mark, "ms": 14**0.5, "mew": 0}
        return "run, re-ranked", dots | {"color": color, "alpha": 0.45, "zorder": 3}
    tuned = method.startswith(TUNED)
    color, line = ("tab:blue", ":") if tuned else ("0.45", "-")
    label = f"{kind}{' on tuned' if tuned else ''}"
    return label, {"ls": line, "marker": mark, "color": color, "lw": 0.9, "ms": 4, "alpha": 0.85}
