from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure
from PIL import Image

from agents.runs.plots import Panel, column, draw_panel, mean_line, plot_curves

LINE = ([1.0, 2.0, 3.0], [0.1, 0.3, 0.2])


def test_a_readable_picture_with_a_panel_each(tmp_path: Path) -> None:
    one = plot_curves([Panel("reward", {"seed 0": LINE})], tmp_path / "one.png")
    empty = Panel("empty", {"x": ([], [])}, levels={"start": 1.0})
    two = plot_curves(
        [Panel("reward", {"mean": LINE, "_seed 0": LINE}), Panel("valid", {"ndcg@20": LINE}), empty],
        tmp_path / "two.png",
        title="run",
    )
    sizes = []
    for path in (one, two):
        with Image.open(path) as image:
            image.verify()
            sizes.append(image.size)
    assert sizes[1][0] == 2 * sizes[0][0]  # no room for the empty panel
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_a_slow_machine_gets_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matplotlib warns, which is an error here, where it took more than a second to place a legend."""
    ticks = itertools.count(step=10.0)
    monkeypatch.setattr("matplotlib.legend.time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    plot_curves([Panel("reward", {"mean": LINE})], tmp_path / "one.png")
    assert next(ticks) >= 10  # it was measured


def test_a_panel_labels_its_axes_and_marks_start_control_and_choice() -> None:
    panel = Panel(
        "validation",
        {"NDCG@20": LINE, "_seed 0": LINE},
        "mean over users",
        {"start": 0.1, "control": 0.25},
        ("chosen: iteration 2", 2.0),
    )
    axis = Figure().subplots()
    draw_panel(axis, panel, "iteration")
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_title()) == (
        "iteration", "mean over users", "validation",
    )  # fmt: skip
    legend = axis.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "NDCG@20", "start: 0.1", "control: 0.25", "chosen: iteration 2",
    ]  # fmt: skip
    drawn = {str(line.get_label()): line for line in axis.get_lines()}
    assert list(drawn["control: 0.25"].get_ydata()) == [0.25, 0.25]
    assert list(drawn["chosen: iteration 2"].get_xdata()) == [2.0, 2.0]
    assert drawn["start: 0.1"].get_linestyle() != drawn["control: 0.25"].get_linestyle()


def test_nothing_to_draw_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_curves([Panel("reward", {"a": ([], [])})], tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_drawing_needs_no_display_and_leaves_pyplot_alone(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from agents.runs.plots import Panel, plot_curves;"
        f"plot_curves([Panel('a', {{'b': ([1], [2])}})], {str(tmp_path / 'x.png')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"DISPLAY": ""})


def test_columns_and_means_of_lines() -> None:
    rows = [{"iteration": 1.0, "a": 1.0}, {"iteration": 2.0}, {"iteration": 3.0, "a": 2.0}]
    assert column(rows, "a") == ([1.0, 3.0], [1.0, 2.0])
    assert mean_line([]) == ([], [])


def test_a_title_is_drawn_as_it_is(tmp_path: Path) -> None:
    for title in (r"prices in $ and \foo$: pretraining", "$x_$", "red \x1b[31m"):
        assert plot_curves([Panel("a", {"b": ([1.0], [2.0])})], tmp_path / "x.png", title=title).exists()
