from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.cli import main
from agents.commands.demo_run import demo_table, over_seeds
from agents.runs.folder import RunFolder

QUICK = [
    "--seeds", "2", "--pretrain.epochs", "2", "--agent.iterations", "4", "--agent.eval-every", "2",
    "--agent.users-per-batch", "16", "--agent.learning-rate", "1e-3", "--quiet",
]  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--out", str(out), *QUICK]) == 0
    return out


def test_it_leaves_runs_numbers_logs_and_a_picture(demo: Path) -> None:
    for seed in (0, 1):
        for name in ("pretrained", "control", "reinforce"):
            run = RunFolder.open(demo / f"seed-{seed}" / name)
            assert run.finished() and run.config["seed"] == seed
            assert list((run.path / "tb").glob("events.out.tfevents.*"))
    assert (demo / "curve.png").read_bytes().startswith(b"\x89PNG")
    control = RunFolder(demo / "seed-0" / "control")
    assert control.config["pretrain"]["target"] == "recent"


def test_its_numbers_are_those_of_the_runs(demo: Path) -> None:
    summary = json.loads((demo / "metrics.json").read_text())
    assert len(summary["seeds"]) == 2 and summary["cost"]["demo"]["seconds"] > 0
    for seed, result in enumerate(summary["seeds"]):
        tuned = RunFolder(demo / f"seed-{seed}" / "reinforce").metrics
        control = RunFolder(demo / f"seed-{seed}" / "control").metrics
        for metric in ("ndcg@20", "recall@10"):
            assert result["pretrained"][metric] == pytest.approx(tuned["before"][metric], abs=1e-6)
            assert result["reinforce"][metric] == pytest.approx(tuned["after"][metric], abs=1e-6)
            assert result["control"][metric] == pytest.approx(control["test"][metric], abs=1e-6)
            gain = result["reinforce_over_control"][metric]["mean_difference"]
            assert gain == pytest.approx(result["reinforce"][metric] - result["control"][metric], abs=1e-9)
    first, second = (result["reinforce"]["ndcg@20"] for result in summary["seeds"])
    assert first != second
    assert summary["over_seeds"]["reinforce"]["ndcg@20"]["mean"] == pytest.approx((first + second) / 2)


def test_the_table_has_a_row_for_each_seed_and_the_mean(demo: Path) -> None:
    results = json.loads((demo / "metrics.json").read_text())["seeds"]
    assert demo_table(results).row_count == 2 * (len(results) + 1)
    assert demo_table(results[:1]).row_count == 4  # one seed has no interval over seeds
    assert over_seeds(results[:1])["reinforce"]["ndcg@20"]["low"] is None


def test_a_demo_is_replaced_by_the_next(demo: Path) -> None:
    before = (demo / "seed-0" / "reinforce" / "log.csv").stat().st_mtime_ns
    assert main(["demo", "--out", str(demo), *QUICK[2:], "--seeds", "1"]) == 0
    assert (demo / "seed-0" / "reinforce" / "log.csv").stat().st_mtime_ns > before


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path), "--seeds", "0"]) == 2
    assert "--seeds must be >= 1 and <= 1000, found 0" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_itself_shows_a_gain_on_every_seed(tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path), "--quiet"]) == 0
    summary = json.loads((tmp_path / "metrics.json").read_text())
    assert all(r["reinforce_over_pretrained"]["ndcg@20"]["low"] > 0 for r in summary["seeds"])
    assert summary["over_seeds"]["reinforce_over_pretrained"]["ndcg@20"]["low"] > 0
