from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from agents.runs.plots import column, mean_line, plot_curves


def test_a_readable_picture_with_a_panel_each(tmp_path: Path) -> None:
    line = ([1.0, 2.0, 3.0], [0.1, 0.3, 0.2])
    one = plot_curves({"reward": {"seed 0": line}}, tmp_path / "one.png")
    two = plot_curves(
        {"reward": {"mean": line, "_seed 0": line}, "valid": {"ndcg@20": line}, "empty": {"x": ([], [])}},
        tmp_path / "two.png",
        title="run",
    )
    sizes = []
    for path in (one, two):
        with Image.open(path) as image:
            image.verify()
            sizes.append(image.size)
    assert sizes[1][0] == 2 * sizes[0][0]  # the empty panel takes no room
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_nothing_to_draw_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_curves({"reward": {"a": ([], [])}}, tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_drawing_needs_no_display_and_leaves_pyplot_alone(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from agents.runs.plots import plot_curves;"
        f"plot_curves({{'a': {{'b': ([1], [2])}}}}, {str(tmp_path / 'x.png')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"DISPLAY": ""})


def test_columns_and_means_of_lines() -> None:
    rows = [{"iteration": 1.0, "a": 1.0}, {"iteration": 2.0}, {"iteration": 3.0, "a": 2.0}]
    assert column(rows, "a") == ([1.0, 3.0], [1.0, 2.0])
    assert mean_line([]) == ([], [])


def test_a_title_is_drawn_as_it_is(tmp_path: Path) -> None:
    for title in (r"prices in $ and \foo$: pretraining", "$x_$", "red \x1b[31m"):
        assert plot_curves({"a": {"b": ([1.0], [2.0])}}, tmp_path / "x.png", title=title).exists()
