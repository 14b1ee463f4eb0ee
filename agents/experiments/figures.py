"""Learning curves of a study: one panel a start, a line a variant, the band of its seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.experiments.aggregate import BASE, Results
from refit_env.utils.atomic_io import atomic_path

COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:cyan")
STYLES = ("-", "--", "-.", ":")
ACROSS = 3
"""Panels in a row."""
ROOM_BELOW = 0.6
"""How far below "no training" a panel reaches, as a share of the greatest gain."""


def draw_learning_curves(
    results: Results, titles: Mapping[str, str], path: Path, metric: str = "ndcg@20"
) -> Path:
    """Draw validation against environment steps, and write a PNG.

    Lines are means over seeds, bands reach from the worst seed to the best. What needs no environment steps
    is a level: "no training", and more ELBO. A panel is cut a little below "no training", so that an
    algorithm that falls does not flatten all others.

    Args:
        results: of ``by_start``.
        titles: variant -> what the legend calls it, in the order of the legend.
        path: the file; replaced at once.
        metric: of validation.

    Raises:
        ValueError: if there is no curve to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    name = f"valid/{metric}"
    shown = {env: rows for env, rows in results.items() if any(_has_curve(r, name) for r in rows.values())}
    if not shown:
        raise ValueError(f"nothing to draw for {path}: no finished cell has a learning curve")
    across, down = min(len(shown), ACROSS), math.ceil(len(shown) / ACROSS)
    figure = Figure(figsize=(4.9 * across + 2.2, 4.2 * down), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    for axis, (env, rows) in zip(axes, shown.items(), strict=False):
        handles |= _draw_panel(axis, env, rows, name, list(titles))
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    order = [key for key in titles if key in handles]
    figure.legend(
        [handles[key] for key in order],
        [titles[key] for key in order],
        loc="outside right center",
        fontsize=8,
        frameon=False,
    )
    for axis in axes[::across]:
        axis.set_ylabel(
            f"validation {metric.replace('ndcg', 'NDCG')}, mean and range of the seeds", fontsize=9
        )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=140)
    return path


def seed_curves(runs: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[list[float]]]:
    """Validation values at the environment steps that all seeds have: x, and a list a seed."""
    tables = [dict(zip(run["curve"]["steps"], run["curve"][name], strict=True)) for run in runs]
    steps = [x for x in tables[0] if all(x in table for table in tables)]
    return steps, [[table[x] for x in steps] for table in tables]


def _has_curve(runs: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any("steps" in run["curve"] and len(run["curve"].get(name, ())) > 1 for run in runs)


def _draw_panel(
    axis: Any, env: str, rows: Mapping[str, Sequence[Mapping[str, Any]]], name: str, order: Sequence[str]
) -> dict[str, Any]:
    """Draw one start on a matplotlib ``Axes``; returns a handle a row for the legend."""
    handles, tops = {}, []
    for place, key in enumerate(order):
        if key not in rows or not all("valid" in run for run in rows[key]):
            continue
        color, style = COLORS[place % len(COLORS)], STYLES[place // len(COLORS) % len(STYLES)]
        if _has_curve(rows[key], name):
            steps, seeds = seed_curves(rows[key], name)
            mean = np.mean(seeds, axis=0)  # (steps,)
            (line,) = axis.plot(steps, mean, style, color=color, linewidth=1.6, label=key)
            axis.fill_between(
                steps, np.min(seeds, axis=0), np.max(seeds, axis=0), color=color, alpha=0.12, lw=0
            )
            tops.append(float(np.max(seeds)))
        else:
            level = float(np.mean([run["valid"][name.removeprefix("valid/")] for run in rows[key]]))
            gray = "black" if key == BASE else "gray"
            line = axis.axhline(level, color=gray, linestyle=":" if key == BASE else "--", linewidth=1.2)
            tops.append(level)
        handles[key] = line
    if BASE in rows:
        floor = float(np.mean([run["valid"][name.removeprefix("valid/")] for run in rows[BASE]]))
        rise = max(max(tops) - floor, 0.01 * floor, 1e-6)
        axis.set_ylim(floor - ROOM_BELOW * rise, floor + 1.08 * rise)
    axis.set_title(env, fontsize=10)
    axis.set_xlabel("environment steps")
    axis.grid(alpha=0.25)
    return handles
