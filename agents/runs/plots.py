"""Learning curves as PNG files; matplotlib is imported where it draws, with the Agg canvas."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refit_env.utils.atomic_io import atomic_path
from refit_env.utils.text import visible

Series = tuple[Sequence[float], Sequence[float]]
"""x and y values of one line."""
LEVEL_STYLES = ("--", ":", "-.")
"""Line styles of the horizontal lines, in turn."""


@dataclass(frozen=True)
class Panel:
    """One set of axes of a figure.

    Attributes:
        title: above it.
        lines: label -> (x, y). A label that begins with ``_`` is drawn faintly and left out of the legend
            (single seeds behind their mean).
        ylabel: what the values are.
        levels: label -> y of a horizontal line: the start, a control.
        chosen: label and x of a vertical line: what validation chose.
    """

    title: str
    lines: Mapping[str, Series]
    ylabel: str = ""
    levels: Mapping[str, float] = field(default_factory=dict)
    chosen: tuple[str, float] | None = None

    @property
    def empty(self) -> bool:
        """Whether there is no value to draw."""
        return not any(len(y) for _, y in self.lines.values())


def plot_curves(
    panels: Sequence[Panel], path: str | os.PathLike[str], *, title: str = "", xlabel: str = "iteration"
) -> Path:
    """Draw the panels side by side, and write a PNG.

    Args:
        panels: one without values is left out.
        path: the file to write; replaced at once, never half written.
        title: above all panels.
        xlabel: below each panel.

    Returns:
        The path.

    Raises:
        ValueError: if no panel holds a value.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [panel for panel in panels if not panel.empty]
    if not shown:
        raise ValueError(f"nothing to draw for {path}: all panels are empty")
    figure = Figure(figsize=(5.4 * len(shown), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, panel in zip(axes, shown, strict=True):
        draw_panel(axis, panel, xlabel)
    if title:
        figure.suptitle(visible(title), fontsize=11, parse_math=False)  # names may hold a $
    target = Path(path)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=130)
    return target


def column(rows: Sequence[Mapping[str, float]], name: str, step_name: str = "iteration") -> Series:
    """Take one column of a log as a line; rows without a value are left out.

    Example:
        >>> column([{"iteration": 1, "reward": 0.5}, {"iteration": 2}], "reward")
        ([1], [0.5])
    """
    kept = [row for row in rows if name in row]
    return [row[step_name] for row in kept], [row[name] for row in kept]


def mean_line(lines: Sequence[Series]) -> Series:
    """Return the mean of several lines at the x values that all of them have.

    Example:
        >>> mean_line([([1, 2, 3], [0.0, 1.0, 2.0]), ([1, 2], [2.0, 3.0])])
        ([1, 2], [1.0, 2.0])
    """
    tables = [dict(zip(x, y, strict=True)) for x, y in lines]
    shared = [x for x in tables[0] if all(x in table for table in tables)] if tables else []
    return shared, [sum(table[x] for table in tables) / len(tables) for x in shared]


def draw_panel(axis: Any, panel: Panel, xlabel: str) -> None:
    """Draw a panel on a matplotlib ``Axes``."""
    for label, (x, y) in panel.lines.items():
        faint = label.startswith("_")
        axis.plot(
            x,
            y,
            label=None if faint else label,
            linewidth=0.8 if faint else 1.8,
            alpha=0.4 if faint else 1.0,
            color="tab:gray" if faint else None,
            marker="." if len(x) < 30 and not faint else None,
        )
    for number, (label, level) in enumerate(panel.levels.items()):
        style = LEVEL_STYLES[number % len(LEVEL_STYLES)]
        axis.axhline(level, color="black", linestyle=style, linewidth=1.1, label=f"{label}: {level:.4g}")
    if panel.chosen is not None:
        label, place = panel.chosen
        axis.axvline(place, color="tab:red", linestyle="-", linewidth=1.1, alpha=0.7, label=label)
    axis.set_title(panel.title, fontsize=10)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(panel.ylabel)
    axis.grid(alpha=0.25)
    named = any(not label.startswith("_") for label in panel.lines)
    if named or panel.levels or panel.chosen is not None:
        axis.legend(fontsize=8, loc="best")  # stated: else a slow machine warns that it took long
