from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from agents.reports.svg import MOST_POINTS, Chart, Line, bar_chart, line_chart, scatter

EVIL = "<script>alert('&')</script>"


def parsed(chart: Chart | None) -> ElementTree.Element:
    assert chart is not None
    return ElementTree.fromstring(str(chart.svg))


def test_a_chart_says_what_it_shows_and_holds_no_markup_of_its_labels() -> None:
    charts = [
        line_chart(EVIL, [Line(EVIL, [0, 1], [0.1, 0.3])], xlabel=EVIL, ylabel=EVIL, level=(EVIL, 0.2)),
        bar_chart(EVIL, [EVIL, "b"], [(EVIL, "c1", [1.0, 2.0])], xlabel=EVIL, ylabel=EVIL),
        scatter(EVIL, [(EVIL, EVIL, 0.1, 0.2)], xlabel=EVIL, ylabel=EVIL),
    ]
    for chart in charts:
        root = parsed(chart)  # it is well formed
        assert root.get("role") == "img" and EVIL in str(root.get("aria-label"))
        assert "script" not in {part.tag for part in root.iter()}
    assert "lowest" not in str(charts[0].svg) and "highest 0.3 at" in str(charts[0].svg)  # type: ignore[union-attr]


def test_values_that_are_not_finite_and_empty_charts_are_left_out() -> None:
    root = parsed(line_chart("t", [Line("a", [0, 1, 2, 3], [0.1, math.nan, math.inf, 0.3])]))
    assert len(root.findall("circle")) == 2
    assert line_chart("t", [Line("a", [], [])]) is None
    assert bar_chart("t", ["a"], [("x", "c1", [math.nan])]) is None
    assert scatter("t", [("a", "b", math.nan, 1.0)], xlabel="x", ylabel="y") is None


def test_a_long_line_keeps_its_ends() -> None:
    values = [float(n) for n in range(5000)]
    circles = parsed(line_chart("t", [Line("a", values, values)])).findall("circle")
    assert len(circles) == MOST_POINTS
    titles = [str(circle.findtext("title")) for circle in circles]
    assert titles[0] == "a at 0: 0" and titles[-1] == "a at 4999: 4999"


@pytest.mark.parametrize("values", [[0.5, 0.5], [0.0, 0.0], [-2.0, 3.0], [1e9, 2e9]])
def test_all_points_are_inside_the_chart(values: list[float]) -> None:
    root = parsed(line_chart("t", [Line("a", [0, 1], values)], level=("start", values[0]), chosen=1))
    width, height = map(float, str(root.get("viewBox")).split()[2:])
    for circle in root.findall("circle"):
        assert 0 <= float(circle.get("cx", -1)) <= width and 0 <= float(circle.get("cy", -1)) <= height
    assert len(parsed(bar_chart("t", ["a"], [("x", "c1", [0.0])])).findall("rect")) == 1
    bars = parsed(
        bar_chart("t", ["a", "b"], [("x", "c1", values)], whiskers=[(v - 1, v + 1) for v in values])
    )
    for bar in bars.findall("rect"):
        assert float(bar.get("y", -1)) >= 0 and float(bar.get("height", -1)) > 0
