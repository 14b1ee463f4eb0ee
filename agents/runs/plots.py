"""Learning curves as PNG files; matplotlib is imported where it draws, with the Agg canvas."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refit_env.utils.atomic_io import atomic_path
from refit_env.utils.text import visible

Series = tuple[Sequence[float], Sequence[float]]
"""x and y values of one line."""


def plot_curves(
    panels: Mapping[str, Mapping[str, Series]],
    path: str | os.PathLike[str],
    *,
    title: str = "",
    xlabel: str = "iteration",
) -> Path:
    """Draw one panel per entry, side by side, and write a PNG.

    Args:
        panels: panel title -> line label -> (x, y). A label that begins with ``_`` is drawn faintly and
            left out of the legend (single seeds behind their mean). A panel without values is left out.
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

    shown = {name: lines for name, lines in panels.items() if any(len(y) for _, y in lines.values())}
    if not shown:
        raise ValueError(f"nothing to draw for {path}: all panels are empty")
    figure = Figure(figsize=(4.8 * len(shown), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, (name, lines) in zip(axes, shown.items(), strict=True):
        _draw_panel(axis, name, lines, xlabel)
    if title:
        figure.suptitle(visible(title), fontsize=11, parse_math=False)  # names may hold a $
    target = Path(path)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=130)
    return target


def column(rows: Sequence[Mapping[str, float]], name: str, step_name: str = "iteration") -> Series:
    """Take one column of a log as a line; rows without a value are passed over.

    Example:
        >>> column([{"iteration": 1, "reward": 0.5}, {"iteration": 2}], "reward")
        ([1], [0.5])
    """
    kept = [row for row in rows if name in row]
    return [row[step_name] for row in kept], [row[name] for row in kept]


def mean_line(lines: Sequence[Series]) -> Series:
    """Mean of several lines at the x values that all of them have.

    Example:
        >>> mean_line([([1, 2, 3], [0.0, 1.0, 2.0]), ([1, 2], [2.0, 3.0])])
        ([1, 2], [1.0, 2.0])
    """
    tables = [dict(zip(x, y, strict=True)) for x, y in lines]
    shared = [x for x in tables[0] if all(x in table for table in tables)] if tables else []
    return shared, [sum(table[x] for table in tables) / len(tables) for x in shared]


def _draw_panel(axis: Any, name: str, lines: Mapping[str, Series], xlabel: str) -> None:
    """Draw the lines of one panel on a matplotlib ``Axes``."""
    for label, (x, y) in lines.items():
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
    axis.set_title(name, fontsize=10)
    axis.set_xlabel(xlabel)
    axis.grid(alpha=0.25)
    if any(not label.startswith("_") for label in lines):
        axis.legend(fontsize=8)
