"""Charts as inline SVG that follow the page's colours, with a text that says what they show.

Every chart is an ``<svg role="img">`` with a title and a description; colours are classes of the page's style
sheet, so that they change with dark mode.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

WIDTH, HEIGHT = 460, 250
"""Size of a chart's coordinates; it is scaled to its column."""
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40
"""Margins of the plotting area."""
MOST_POINTS = 120
"""Points of a line that are drawn; longer lines are thinned."""
ROW = 24
"""Height of a row of names."""
NO_TICKS = 5
"""About how many ticks an axis has."""


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
    area = _Area((min(xs), max(xs)), _padded(min(ys), max(ys)))
    parts = [area.grid(xlabel, ylabel)]
    for place in alarms:
        parts.append(_vertical(area, place, "alarm"))
    if chosen is not None:
        parts.append(_vertical(area, chosen, "chosen"))
    if level is not None:
        y = area.y(level[1])
        parts.append(
            Markup('<line class="level" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, y, y)
        )
    parts += [_line(area, line) for line in kept]
    legend = [(line.color, line.label) for line in kept]
    legend += [("level", level[0])] if level else []
    legend += [("chosen", f"chosen: {xlabel} {chosen:g}")] if chosen is not None else []
    legend += [("alarm", "alarm")] if alarms else []
    said = "; ".join(_said(line, xlabel) for line in kept)
    return Chart(title, _svg(title, f"Line chart by {xlabel}. {said}.", parts), legend, note)


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
    area = _Area((0, len(groups)), _padded(min(0, *values, *ends), max(0, *values, *ends), zero=True))
    parts = [area.grid(xlabel, ylabel, names=groups, percent=percent)]
    width = 0.8 / len(series)
    for place, (label, color, each) in enumerate(series):
        for at, value in enumerate(each):
            if math.isfinite(value):
                x = at + 0.1 + place * width
                shade = color if colors is None else colors[at]
                parts.append(
                    _bar(area, x, width, value, shade, f"{groups[at]}, {label}: {_number(value, percent)}")
                )
    for at, (low, high) in enumerate(whiskers or ()):
        if math.isfinite(low) and math.isfinite(high):
            x = area.x(at + 0.5)
            parts.append(
                Markup('<line class="whisker" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
                    x, area.y(low), area.y(high)
                )
            )
    said = "; ".join(
        f"{label}: "
        + ", ".join(f"{name} {_number(v, percent)}" for name, v in zip(groups, each, strict=True))
        for label, _, each in series
    )
    legend = [(color, label) for label, color, _ in series] if len(series) > 1 else []
    return Chart(title, _svg(title, f"Bar chart. {said}.", parts), legend, note)


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
    area = _Area(_padded(min(xs), max(xs)), _padded(min(ys), max(ys)))
    names = list(dict.fromkeys(point[0] for point in points))
    parts = [area.grid(xlabel, ylabel)]
    for at, name in enumerate(names):
        own = sorted((p for p in points if p[0] == name), key=lambda p: p[2])
        color = f"c{at % 6}"
        if joined and len(own) > 1:
            path = " ".join(f"{area.x(p[2])},{area.y(p[3])}" for p in own)
            parts.append(Markup('<polyline class="line {}" points="{}"/>').format(color, path))
        for _, label, x, y in own:
            parts.append(
                Markup('<circle class="dot {}" cx="{}" cy="{}" r="4.5"><title>{}</title></circle>').format(
                    color, area.x(x), area.y(y), f"{name}, {label}: {xlabel} {x:.4g}, {ylabel} {y:.4g}"
                )
            )
    said = "; ".join(f"{g} {label}: {x:.4g}, {y:.4g}" for g, label, x, y in points[:40])
    text = f"Scatter chart of {ylabel} by {xlabel}. {said}."
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
    low, high = _padded(min(ends), max(ends))
    left, bottom = 168, TOP + ROW * len(rows)

    def x(value: float) -> float:
        return round(left + (value - low) / (high - low) * (WIDTH - left - RIGHT), 1)

    parts = []
    for value in ticks(low, high):
        kind = "axis" if zero and value == 0 else "grid"
        line = Markup('<line class="{3}" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>')
        parts += [
            line.format(x(value), TOP, bottom, kind),
            _text(x(value), bottom + 16, _number(value, False)),
        ]
    for at, (name, value, start, end) in enumerate(rows):
        y = TOP + ROW * (at + 0.5)
        parts.append(_text(left - 10, y + 4, name if len(name) < 26 else f"{name[:24]}...", "end"))
        if math.isfinite(start) and math.isfinite(end):
            line = Markup('<line class="span c1" x1="{}" x2="{}" y1="{}" y2="{}"/>')
            parts.append(line.format(x(start), x(end), y, y))
        dot = Markup('<circle class="dot c1" cx="{}" cy="{}" r="4.5"><title>{}</title></circle>')
        parts.append(dot.format(x(value), y, f"{name}: {value:.4f}"))
    parts.append(_text((left + WIDTH - RIGHT) / 2, bottom + 34, xlabel, kind="label"))
    said = "; ".join(f"{name}: {value:.4g} ({start:.4g} to {end:.4g})" for name, value, start, end in rows)
    text = f"Points with intervals, {xlabel}. {said}."
    return Chart(title, _svg(title, text, parts, bottom + 42), note=note)


# ---------------------------------------------------------------------- parts


class _Area:
    """The plotting area: turns values into coordinates."""

    def __init__(self, xs: tuple[float, float], ys: tuple[float, float]) -> None:
        self.xs = xs if xs[1] > xs[0] else (xs[0] - 0.5, xs[0] + 0.5)
        self.ys = ys

    def x(self, value: float) -> float:
        """The horizontal coordinate of a value."""
        share = (value - self.xs[0]) / (self.xs[1] - self.xs[0])
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """The vertical coordinate of a value."""
        share = (value - self.ys[0]) / (self.ys[1] - self.ys[0])
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def grid(
        self, xlabel: str, ylabel: str, *, names: Sequence[str] | None = None, percent: bool = False
    ) -> Markup:
        """Grid lines, ticks and labels of both axes."""
        out = []
        for value in ticks(*self.ys):
            y = self.y(value)
            kind = "axis" if value == 0 else "grid"
            out.append(
                Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                    kind, LEFT, WIDTH - RIGHT, y, y
                )
            )
            out.append(_text(LEFT - 6, y + 4, _number(value, percent), "end"))
        if names is None:
            for value in ticks(*self.xs):
                out.append(_text(self.x(value), HEIGHT - BOTTOM + 16, _number(value, False)))
        else:
            every = math.ceil(sum(len(name) + 2 for name in names) / 58)
            for at, name in enumerate(names):
                if at % every == 0:
                    out.append(_text(self.x(at + 0.5), HEIGHT - BOTTOM + 16, name))
        if xlabel:
            out.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, xlabel, kind="label"))
        if ylabel:
            middle = (TOP + HEIGHT - BOTTOM) / 2
            out.append(
                Markup('<text class="label" text-anchor="middle" transform="{}">{}</text>').format(
                    f"translate(12 {middle}) rotate(-90)", ylabel
                )
            )
        return Markup("").join(out)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two values.

    Example:
        >>> ticks(0, 1), ticks(0.312, 0.347)
        ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.32, 0.33, 0.34])
    """
    if not high > low:
        return [low]
    rough = (high - low) / NO_TICKS
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    digits = max(0, -math.floor(math.log10(step)))
    return [round((first + n) * step, digits) + 0.0 for n in range(count)]


def _padded(low: float, high: float, *, zero: bool = False) -> tuple[float, float]:
    """An axis that is a little longer than its values."""
    gap = (high - low) or abs(high) or 1.0
    if zero and low == high:
        return 0.0, 1.0
    below = 0.0 if zero and low == 0 else 0.06 * gap
    above = 0.0 if zero and high == 0 else 0.06 * gap
    return low - below, high + above


def _finite(line: Line) -> Line:
    """The line without values that are not finite, with at most ``MOST_POINTS`` points."""
    kept = [at for at, (x, y) in enumerate(zip(line.x, line.y, strict=True)) if math.isfinite(x + y)]
    if len(kept) > MOST_POINTS:
        kept = [kept[round(n * (len(kept) - 1) / (MOST_POINTS - 1))] for n in range(MOST_POINTS)]
    band = None if line.band is None else ([line.band[0][a] for a in kept], [line.band[1][a] for a in kept])
    return Line(line.label, [line.x[at] for at in kept], [line.y[at] for at in kept], line.color, band)


def _line(area: _Area, line: Line) -> Markup:
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
        out.append(
            Markup('<circle class="dot {}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(
                line.color, x, y, radius, text
            )
        )
    return Markup("").join(out)


def _bar(area: _Area, x: float, width: float, value: float, color: str, text: str) -> Markup:
    """A bar from zero."""
    left, right = area.x(x), area.x(x + width)
    top, bottom = sorted((area.y(value), area.y(0)))
    return Markup(
        '<rect class="bar {}" x="{}" y="{}" width="{}" height="{}" rx="2"><title>{}</title></rect>'
    ).format(color, left, top, round(right - left - 1, 1), round(max(bottom - top, 0.8), 1), text)


def _vertical(area: _Area, value: float, kind: str) -> Markup:
    """A vertical line."""
    x = area.x(value)
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        kind, x, x, TOP, HEIGHT - BOTTOM
    )


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "tick") -> Markup:
    """A text."""
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, round(x, 1), round(y, 1), anchor, text
    )


def _svg(title: str, text: str, parts: Iterable[Markup], height: int = HEIGHT) -> Markup:
    """The drawing with its title and description."""
    inner = Markup("").join(parts)
    return Markup('<svg role="img" viewBox="0 0 {} {}" aria-label="{}"><desc>{}</desc>{}</svg>').format(
        WIDTH, height, f"{title}. {text}", text, inner
    )


def _said(line: Line, xlabel: str) -> str:
    """A line in words."""
    best = max(range(len(line.y)), key=line.y.__getitem__)
    return (
        f"{line.label}: {line.y[0]:.4g} at {line.x[0]:g}, {line.y[-1]:.4g} at {line.x[-1]:g}, "
        f"highest {line.y[best]:.4g} at {xlabel} {line.x[best]:g}"
    )


def _number(value: float, percent: bool) -> str:
    """A number of an axis."""
    if percent:
        return f"{100 * value:.3g} %"
    if value and abs(value) >= 10_000:
        return f"{value / 1000:.3g}k"
    return f"{value:.4g}"
