"""The plotting area of an SVG chart: coordinates of values, grid, ticks, texts and numbers of the axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 460, 250
"""Size of a chart's coordinates; it is scaled to its column."""
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40
"""Margins of the plotting area."""
NO_TICKS = 5
"""About how many ticks an axis has."""


class Area:
    """The plotting area, which turns values into coordinates."""

    def __init__(self, xs: tuple[float, float], ys: tuple[float, float]) -> None:
        """Set the (lowest, highest) values of both axes."""
        self.xs = xs if xs[1] > xs[0] else (xs[0] - 0.5, xs[0] + 0.5)
        self.ys = ys

    def x(self, value: float) -> float:
        """Return the horizontal coordinate of a value."""
        share = (value - self.xs[0]) / (self.xs[1] - self.xs[0])
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """Return the vertical coordinate of a value."""
        share = (value - self.ys[0]) / (self.ys[1] - self.ys[0])
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def grid(
        self, xlabel: str, ylabel: str, *, names: Sequence[str] | None = None, percent: bool = False
    ) -> Markup:
        """Return the grid lines, ticks and labels of both axes."""
        out = []
        for value in ticks(*self.ys):
            y = self.y(value)
            kind = "axis" if value == 0 else "grid"
            out.append(line_at(kind, (LEFT, WIDTH - RIGHT), (y, y)))
            out.append(text_at(LEFT - 6, y + 4, number(value, percent), "end"))
        if names is None:
            for value in ticks(*self.xs):
                out.append(text_at(self.x(value), HEIGHT - BOTTOM + 16, number(value, False)))
        else:
            every = math.ceil(sum(len(name) + 2 for name in names) / 58)
            for at, name in enumerate(names):
                if at % every == 0:
                    out.append(text_at(self.x(at + 0.5), HEIGHT - BOTTOM + 16, name))
        if xlabel:
            out.append(text_at((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, xlabel, kind="label"))
        if ylabel:
            middle = (TOP + HEIGHT - BOTTOM) / 2
            out.append(
                Markup('<text class="label" text-anchor="middle" transform="{}">{}</text>').format(
                    f"translate(12 {middle}) rotate(-90)", ylabel
                )
            )
        return Markup("").join(out)


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two values.

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


def padded(low: float, high: float, *, zero: bool = False) -> tuple[float, float]:
    """Return the ends of an axis that is a little longer than its values."""
    gap = (high - low) or abs(high) or 1.0
    if zero and low == high:
        return 0.0, 1.0
    below = 0.0 if zero and low == 0 else 0.06 * gap
    above = 0.0 if zero and high == 0 else 0.06 * gap
    return low - below, high + above


def text_at(x: float, y: float, text: str, anchor: str = "middle", kind: str = "tick") -> Markup:
    """Return a text."""
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, round(x, 1), round(y, 1), anchor, text
    )


def line_at(kind: str, xs: tuple[float, float], ys: tuple[float, float]) -> Markup:
    """Return a straight line between two points; ``kind`` is its class of the style sheet."""
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(kind, *xs, *ys)


def dot_at(color: str, x: float, y: float, text: str, radius: float = 4.5) -> Markup:
    """Return a point whose text appears under the mouse pointer."""
    return Markup('<circle class="dot {}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(
        color, x, y, radius, text
    )


def number(value: float, percent: bool) -> str:
    """Return a value as an axis shows it."""
    if percent:
        return f"{100 * value:.3g} %"
    if value and abs(value) >= 10_000:
        return f"{value / 1000:.3g}k"
    return f"{value:.4g}"
