"""Charts as inline SVG that follow the page's colours, with a text that says what they show.

Every chart is an ``<svg role="img">`` with a title and a description; colours are classes of the page's style
sheet, so that they change with dark mode.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from agents.reports.svg_axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Area,
    dot_at,
    line_at,
    number,
    padded,
    text_at,
    ticks,
)
from refit_env.evaluation.intervals import is_known

MOST_POINTS = 120
"""Points of a line that are drawn; longer lines are thinned."""
ROW = 24
"""Height of a row of names."""


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: in the legend.
        x: places.
        y: values.
        color: class of the style sheet: ``c0`` .. ``c5``.
        band: (low, high) of each place, or None.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = "c1"
    band: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True)
class Chart:
    """A drawn chart and what belongs beside it.

    Attributes:
        title: heading.
        svg: the drawing.
        legend: (class, label) of what is drawn.
        note: a sentence below it; empty for none.
    """

    title: str
    svg: Markup
    legend: list[tuple[str, str]] = field(default_factory=list)
    note: str = ""


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    xlabel: str = "iteration",
    ylabel: str = "",
    level: tuple[str, float] | None = None,
    chosen: float | None = None,
    alarms: Sequence[float] = (),
    note: str = "",
) -> Chart | None:
    """Draw lines over a common axis; None where no line has a finite value.

    Args:
        title: heading.
        lines: to draw.
        xlabel: below.
        ylabel: above the vertical axis.
        level: name and value of a horizontal line.
        chosen: place of a vertical line: what validation chose.
        alarms: places of alarms.
        note: a sentence below it.
    """
    kept = [line for line in map(_finite, lines) if line.x]
    if not kept:
        return None
    ys = [value for line in kept for value in (*line.y, *(line.band[0] if line.band else ()))]
    ys += [value for line in kept if line.band for value in line.band[1]]
    ys += [level[1]] if level else []
    xs = [value for line in kept for value in line.x] + ([] if chosen is None else [chosen])
    area = Area((min(xs), max(xs)), padded(min(ys), max(ys)))
    parts = [area.grid(xlabel, ylabel)]
    for place in alarms:
        parts.append(_vertical(area, place, "alarm"))
    if chosen is not None:
        parts.append(_vertical(area, chosen, "chosen"))
    if level is not None:
        y = area.y(level[1])
        parts.append(line_at("level", (LEFT, WIDTH - RIGHT), (y, y)))
    parts += [_line(area, line) for line in kept]
    legend = [(line.color, line.label) for line in kept]
    legend += [("level", level[0])] if level else []
    legend += [("chosen", f"chosen: {xlabel} {chosen:g}")] if chosen is not None else []
    legend += [("alarm", "alarm")] if alarms else []
    words = "; ".join(_in_words(line, xlabel) for line in kept)
    return Chart(title, _svg(title, f"Line chart by {xlabel}. {words}.", parts), legend, note)


def bar_chart(
    title: str,
    groups: Sequence[str],
    series: Sequence[tuple[str, str, Sequence[float]]],
    *,
    xlabel: str = "",
    ylabel: str = "",
    whiskers: Sequence[tuple[float, float]] | None = None,
    percent: bool = False,
    colors: Sequence[str] | None = None,
    note: str = "",
) -> Chart | None:
    """Draw bars side by side in groups; None where there is nothing.

    Args:
        title: heading.
        groups: names below the bars.
        series: (label, class, one value of each group).
        xlabel: below.
        ylabel: above the vertical axis.
        whiskers: interval of each group, for one series.
        percent: whether values are shares.
        colors: class of each group's bar, where there is one series.
        note: a sentence below it.
    """
    values = [value for _, _, each in series for value in each if math.isfinite(value)]
    if not values:
        return None
    ends = [end for pair in whiskers or () for end in pair if math.isfinite(end)]
    area = Area((0, len(groups)), padded(min(0, *values, *ends), max(0, *values, *ends), zero=True))
    parts = [area.grid(xlabel, ylabel, names=groups, percent=percent)]
    width = 0.8 / len(series)
    for place, (label, color, each) in enumerate(series):
        for at, value in enumerate(each):
            if math.isfinite(value):
                x = at + 0.1 + place * width
                shade = color if colors is None else colors[at]
                parts.append(
                    _bar(area, x, width, value, shade, f"{groups[at]}, {label}: {number(value, percent)}")
                )
    for at, (low, high) in enumerate(whiskers or ()):
        if math.isfinite(low) and math.isfinite(high):
            x = area.x(at + 0.5)
            parts.append(line_at("whisker", (x, x), (area.y(low), area.y(high))))
    words = "; ".join(
        f"{label}: " + ", ".join(f"{name} {number(v, percent)}" for name, v in zip(groups, each, strict=True))
        for label, _, each in series
    )
    legend = [(color, label) for label, color, _ in series] if len(series) > 1 else []
    return Chart(title, _svg(title, f"Bar chart. {words}.", parts), legend, note)


def scatter(
    title: str,
    points: Sequence[tuple[str, str, float, float]],
    *,
    xlabel: str,
    ylabel: str,
    joined: bool = False,
    note: str = "",
) -> Chart | None:
    """Draw points; those of one class have one colour.

    Args:
        title: heading.
        points: (group, label, x, y).
        xlabel: below.
        ylabel: above the vertical axis.
        joined: whether the points of a group are joined in order of x.
        note: a sentence below it.
    """
    points = [point for point in points if math.isfinite(point[2]) and math.isfinite(point[3])]
    if not points:
        return None
    xs, ys = [p[2] for p in points], [p[3] for p in points]
    area = Area(padded(min(xs), max(xs)), padded(min(ys), max(ys)))
    names = list(dict.fromkeys(point[0] for point in points))
    parts = [area.grid(xlabel, ylabel)]
    for at, name in enumerate(names):
        own = sorted((p for p in points if p[0] == name), key=lambda p: p[2])
        color = f"c{at % 6}"
        if joined and len(own) > 1:
            path = " ".join(f"{area.x(p[2])},{area.y(p[3])}" for p in own)
            parts.append(Markup('<polyline class="line {}" points="{}"/>').format(color, path))
        for _, label, x, y in own:
            text = f"{name}, {label}: {xlabel} {x:.4g}, {ylabel} {y:.4g}"
            parts.append(dot_at(color, area.x(x), area.y(y), text))
    words = "; ".join(f"{g} {label}: {x:.4g}, {y:.4g}" for g, label, x, y in points[:40])
    text = f"Scatter chart of {ylabel} by {xlabel}. {words}."
    return Chart(title, _svg(title, text, parts), [(f"c{at % 6}", n) for at, n in enumerate(names)], note)


def interval_chart(
    title: str,
    rows: Sequence[tuple[str, float, float, float]],
    *,
    xlabel: str,
    zero: bool = False,
    note: str = "",
) -> Chart | None:
    """Draw a point with its interval in a row of each name; None where there is nothing.

    Args:
        title: heading.
        rows: (name, value, low, high); an interval that is not finite is not drawn.
        xlabel: below.
        zero: whether the axis holds 0, with a line there.
        note: a sentence below it.
    """
    rows = [row for row in rows if math.isfinite(row[1])]
    if not rows:
        return None
    ends = [end for row in rows for end in row[1:] if math.isfinite(end)] + [0.0] * zero
    low, high = padded(min(ends), max(ends))
    left, bottom = 168, TOP + ROW * len(rows)

    def x(value: float) -> float:
        return round(left + (value - low) / (high - low) * (WIDTH - left - RIGHT), 1)

    parts = []
    for value in ticks(low, high):
        kind = "axis" if zero and value == 0 else "grid"
        parts.append(line_at(kind, (x(value), x(value)), (TOP, bottom)))
        parts.append(text_at(x(value), bottom + 16, number(value, False)))
    for at, (name, value, start, end) in enumerate(rows):
        y = TOP + ROW * (at + 0.5)
        parts.append(text_at(left - 10, y + 4, name if len(name) < 26 else f"{name[:24]}...", "end"))
        if is_known(start, end):
            parts.append(line_at("span c1", (x(start), x(end)), (y, y)))
        parts.append(dot_at("c1", x(value), y, f"{name}: {value:.4f}"))
    parts.append(text_at((left + WIDTH - RIGHT) / 2, bottom + 34, xlabel, kind="label"))
    spans = [f" ({start:.4g} to {end:.4g})" if is_known(start, end) else "" for _, _, start, end in rows]
    words = "; ".join(f"{row[0]}: {row[1]:.4g}{span}" for row, span in zip(rows, spans, strict=True))
    text = f"Points with intervals, {xlabel}. {words}."
    return Chart(title, _svg(title, text, parts, bottom + 42), note=note)


def _finite(line: Line) -> Line:
    """The line without values that are not finite, with at most ``MOST_POINTS`` points."""
    kept = [at for at, (x, y) in enumerate(zip(line.x, line.y, strict=True)) if math.isfinite(x + y)]
    if len(kept) > MOST_POINTS:
        kept = [kept[round(n * (len(kept) - 1) / (MOST_POINTS - 1))] for n in range(MOST_POINTS)]
    band = None if line.band is None else ([line.band[0][a] for a in kept], [line.band[1][a] for a in kept])
    return Line(line.label, [line.x[at] for at in kept], [line.y[at] for at in kept], line.color, band)


def _line(area: Area, line: Line) -> Markup:
    """A line with its band and points."""
    places = [(area.x(x), area.y(y)) for x, y in zip(line.x, line.y, strict=True)]
    out = []
    if line.band is not None:
        low = [f"{area.x(x)},{area.y(y)}" for x, y in zip(line.x, line.band[0], strict=True)]
        high = [f"{area.x(x)},{area.y(y)}" for x, y in zip(line.x, line.band[1], strict=True)]
        out.append(
            Markup('<polygon class="band {}" points="{}"/>').format(line.color, " ".join(low + high[::-1]))
        )
    out.append(
        Markup('<polyline class="line {}" points="{}"/>').format(
            line.color, " ".join(f"{x},{y}" for x, y in places)
        )
    )
    radius = 3 if len(places) <= 30 else 1.4
    for (x, y), place, value in zip(places, line.x, line.y, strict=True):
        text = f"{line.label} at {place:g}: {value:.4g}"
        out.append(dot_at(line.color, x, y, text, radius))
    return Markup("").join(out)


def _bar(area: Area, x: float, width: float, value: float, color: str, text: str) -> Markup:
    """A bar from zero."""
    left, right = area.x(x), area.x(x + width)
    top, bottom = sorted((area.y(value), area.y(0)))
    return Markup(
        '<rect class="bar {}" x="{}" y="{}" width="{}" height="{}" rx="2"><title>{}</title></rect>'
    ).format(color, left, top, round(right - left - 1, 1), round(max(bottom - top, 0.8), 1), text)


def _vertical(area: Area, value: float, kind: str) -> Markup:
    """A vertical line."""
    x = area.x(value)
    return line_at(kind, (x, x), (TOP, HEIGHT - BOTTOM))


def _svg(title: str, text: str, parts: Iterable[Markup], height: int = HEIGHT) -> Markup:
    """The drawing with its title and description."""
    inner = Markup("").join(parts)
    return Markup('<svg role="img" viewBox="0 0 {} {}" aria-label="{}"><desc>{}</desc>{}</svg>').format(
        WIDTH, height, f"{title}. {text}", text, inner
    )


def _in_words(line: Line, xlabel: str) -> str:
    """A line in words."""
    best = max(range(len(line.y)), key=line.y.__getitem__)
    return (
        f"{line.label}: {line.y[0]:.4g} at {line.x[0]:g}, {line.y[-1]:.4g} at {line.x[-1]:g}, "
        f"highest {line.y[best]:.4g} at {xlabel} {line.x[best]:g}"
    )
