"""What a reader of a comparison sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from agents.experiments import figures
from agents.experiments.aggregate import by_variant
from agents.experiments.columns import percent_interval, signed
from agents.experiments.figures import draw_learning_curves, seed_curves
from agents.experiments.report import draw, find, report, write_report
from agents.experiments.shipped import study_path
from agents.experiments.study import Study, read_study
from agents.experiments.summary import grouped
from agents.experiments.tables import TextTable, print_table

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
ENV = "ReFiT-Synthetic-v0"


def cell(
    variant: str, seed: int, value: float, curve: list[float] | None = None, env: str = ENV
) -> dict[str, Any]:
    steps = [100.0 * n for n in range(len(curve or ()))]
    return {
        "key": f"{env}{variant}{seed}",
        "env": env,
        "model": "diffrec",
        "variant": variant,
        "seed": seed,
        "test": dict.fromkeys(METRICS, value),
        "valid": dict.fromkeys(METRICS, value),
        "env_steps": 0 if variant == "pretrained" else 12_800,
        "cost": {"training_seconds": 5.0, "validation_seconds": 2.0, "peak_memory_mib": 321.0},
        "curve": {"epoch": [1], "valid/ndcg@20": [0.1, 0.2]}
        if curve is None
        else {"steps": steps, "valid/ndcg@20": curve},
    }


@pytest.fixture(scope="module")
def study() -> Study:
    return read_study(study_path("algorithms"))


GOOD = (
    *(cell("pretrained", seed, 0.3 + seed / 100) for seed in range(2)),
    *(cell("ppo", seed, 0.36 + seed / 100, [0.3, 0.33, 0.36 + seed / 100]) for seed in range(2)),
    *(cell("reinforce", seed, 0.3 + 3 * seed / 100, [0.3, 0.31, 0.32]) for seed in range(2)),
)


def test_an_environment_s_table_has_a_line_a_variant_and_stars_what_is_sure(study: Study) -> None:
    table = report(find(study, GOOD, {}), "")["tables"][0]
    assert table["title"] == f"Algorithms on {ENV}, 60,000 environment steps each (test)"
    lines = {line[0]: dict(zip(table["columns"], line, strict=True)) for line in table["rows"]}
    assert list(lines) == ["no training", "REINFORCE", "PPO"]
    assert lines["PPO"]["NDCG@20 gain"] == "+0.0600 ± 0.0000 *"
    assert lines["REINFORCE"]["NDCG@20 gain"].startswith("+0.0100 ±")
    assert not lines["REINFORCE"]["NDCG@20 gain"].endswith("*")
    assert lines["no training"]["NDCG@20 gain"] == "" and lines["no training"]["steps"] == ""
    assert lines["PPO"]["steps"] == "12,800" and lines["PPO"]["seconds"] == "7"
    assert lines["PPO"]["peak MiB"] == "321"


def test_one_seed_has_figures_but_no_intervals(study: Study) -> None:
    cells = [cell("pretrained", 0, 0.3), cell("reinforce", 0, 0.3), cell("ppo", 0, 0.36)]
    first, overall = report(find(study, cells, {}), "")["tables"]
    assert first["rows"][2][1:5] == ["0.3600 ± -", "0.3600 ± -", "+0.0600 ± -", "+0.0600 ± -"]
    assert overall["rows"][1][1:] == ["+20.00 [-]", "1.00 [-]"]


def test_the_aggregate_table_has_percents_and_chances(study: Study) -> None:
    table = report(find(study, GOOD, {}), "")["tables"][1]
    lines = {line[0]: line[1:] for line in table["rows"]}
    assert set(lines) == {"REINFORCE", "PPO"} and lines["REINFORCE"][1] == ""
    assert lines["PPO"][1] == "1.00 [1.00, 1.00]" and lines["PPO"][0].startswith("+19.68 [")
    apart = [cell("pretrained", 0, 0.3), cell("ppo", 1, 0.3)]
    assert len(report(find(study, apart, {}), "")["tables"]) == 1


def test_numbers_as_they_are_read() -> None:
    assert signed({"mean": -0.01, "low": -0.02, "high": 0.0, "excludes_zero": False}) == "-0.0100 ± 0.0100"
    assert percent_interval({"mean": 0.025, "low": 0.01, "high": 0.04}) == "+2.50 [+1.00, +4.00]"


def test_tables_are_printed_whole_into_pipes(capsys: pytest.CaptureFixture[str]) -> None:
    cells = tuple(f"a wide cell number {n}" for n in range(6))
    print_table(TextTable("T", cells, (cells,)))
    shown = capsys.readouterr().out
    assert all(shown.count(name) == 2 for name in cells)  # heading and cell


def test_a_table_that_is_too_wide_is_continued_below_with_its_first_column(
    capsys: pytest.CaptureFixture[str],
) -> None:
    headings = ("start", *(f"a long name of a column, number {n:02d}" for n in range(20)))
    values = ("one start", *(f"+0.0048 [+0.0{n:03d}, +0.0050]" for n in range(20)))
    print_table(TextTable("Pairs", headings, (values,)))
    shown = capsys.readouterr().out
    assert all(shown.count(cell) == 1 for cell in (*headings[1:], *values[1:])) and "\u2026" not in shown
    assert shown.count("Pairs") == 1 and shown.count("one start") == 1 + shown.count("(continued)") > 1
    assert max(map(len, shown.splitlines())) <= 200


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn."""
    kept: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (kept.append(self), save(self, *a, **k))[1])
    return kept


def test_a_line_an_algorithm_and_a_band_of_its_seeds(
    drawn: list[Figure], study: Study, tmp_path: Path
) -> None:
    other = [
        cell("ppo", 0, 0.5, [0.4, 0.5], env="ReFiT-ML1M-v0"),
        cell("pretrained", 0, 0.4, env="ReFiT-ML1M-v0"),
    ]
    assert draw(find(study, [*GOOD, *other], {}), tmp_path / "curves.png") == "curves.png"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    figure = drawn[0]
    assert [axis.get_title() for axis in figure.axes] == [ENV, "ReFiT-ML1M-v0"]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["ppo"].get_ydata(), [0.3, 0.33, 0.365])
    np.testing.assert_allclose(lines["ppo"].get_xdata(), [0, 100, 200])
    band = figure.axes[0].collections[1].get_paths()[0].vertices[:, 1]  # reinforce's is the first
    assert band.max() == pytest.approx(0.37)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["no training", "REINFORCE", "PPO"]


def test_what_falls_does_not_flatten_the_others(drawn: list[Figure], study: Study, tmp_path: Path) -> None:
    fallen = [cell("es", seed, 0.3, [0.3, 0.0, 0.0]) for seed in range(2)]
    draw(find(study, [*GOOD, *fallen], {}), tmp_path / "curves.png")
    low, high = drawn[0].axes[0].get_ylim()
    assert 0.2 < low < 0.305 and high > 0.37


def test_panels_go_on_in_further_rows(drawn: list[Figure], tmp_path: Path) -> None:
    rows = {"pretrained": [cell("pretrained", 0, 0.3)], "ppo": [cell("ppo", 0, 0.36, [0.3, 0.33, 0.36])]}
    results = {f"environment {n}": rows for n in range(figures.ACROSS + 1)}
    draw_learning_curves(results, {"pretrained": "no training", "ppo": "PPO"}, tmp_path / "curves.png")
    axes = drawn[0].axes
    assert [axis.get_title() for axis in axes if axis.axison] == list(results)
    assert len({round(axis.get_position().y0, 3) for axis in axes if axis.axison}) == 2
    assert drawn[0].get_figwidth() < drawn[0].get_figheight() * 3


def test_seeds_are_averaged_where_all_of_them_were_validated() -> None:
    runs = [cell("ppo", 0, 0.3, [0.1, 0.2, 0.3]), cell("ppo", 1, 0.3, [0.3, 0.4])]
    assert seed_curves(runs, "valid/ndcg@20") == ([0.0, 100.0], [[0.1, 0.2], [0.3, 0.4]])


def test_nothing_to_draw(study: Study, tmp_path: Path) -> None:
    start = [cell("pretrained", 0, 0.3)]
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_learning_curves(by_variant(grouped(study, start, {})), {}, tmp_path / "curves.png")
    assert draw(find(study, start, {}), tmp_path / "curves.png") is None
    assert not (tmp_path / "curves.png").exists()


def test_every_variant_has_a_line_of_its_own_kind(study: Study) -> None:
    kinds = [
        (figures.COLORS[n % len(figures.COLORS)], figures.STYLES[n // len(figures.COLORS)])
        for n in range(len(study.variants))
    ]
    assert len(set(kinds)) == len(kinds)


def test_a_written_report_has_a_line_a_row_and_no_figures_behind_it(study: Study, tmp_path: Path) -> None:
    content = report(find(study, GOOD, {}), "refit compare algorithms")
    write_report(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text()
    found = json.loads(text)
    assert found["tables"] == content["tables"] and found["command"] == "refit compare algorithms"
    assert "rows" not in found and "over_environments" not in found
    assert any(line.strip().startswith('["PPO", ') for line in text.splitlines())
