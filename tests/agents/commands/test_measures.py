"""What a fine-tuning is measured by: the start and the end on the same users."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from agents.cli import main
from agents.commands.measures import comparison
from agents.runs.folder import RunFolder
from agents.runs.log import read_log
from refit_env.data import Dataset, load_dataset
from refit_env.evaluation import beyond_accuracy
from refit_env.evaluation.ranking import Evaluation, evaluate
from refit_env.policy import DiffusionPolicy


def test_comparison_needs_the_same_users(pretrained: Path) -> None:
    dataset = load_dataset("synthetic")
    score = DiffusionPolicy.load(pretrained).scorer(dataset)
    everyone = evaluate(score, dataset)
    half = evaluate(score, dataset, users=everyone.users[::2])
    with pytest.raises(ValueError, match="different users"):
        comparison(everyone, half, dataset)
    assert set(comparison(everyone, everyone, dataset)["relative_gain"].values()) == {0.0}


def test_comparison_measures_beyond_accuracy_once(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset("synthetic")
    everyone = evaluate(DiffusionPolicy.load(pretrained).scorer(dataset), dataset)
    names = ["novelty@20", "ild@20", "entropy@20", "coverage@20"]
    kinds_measured: list[list[str]] = []

    own = beyond_accuracy.beyond_accuracy

    def counted(one: Evaluation, data: Dataset, split: str, kinds: Iterable[str]) -> beyond_accuracy.Beyond:
        kinds_measured.append(list(kinds))
        return own(one, data, split, kinds)

    monkeypatch.setattr(beyond_accuracy, "beyond_accuracy", counted)
    report = comparison(everyone, everyone, dataset, names)
    assert kinds_measured == [["novelty", "ild", "entropy"]] * 2
    assert {"novelty@20", "ild@20"} < set(report["paired_bootstrap"]) and "entropy@20" in report["after"]
    assert not {"entropy@20", "coverage@20"} & set(report["paired_bootstrap"])


def test_the_table_has_the_metrics_of_the_rule_and_the_choice_its_interval(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = "novelty@20 where ndcg@20 >= 0.5 * start and coverage@20 >= 0.01"
    goal = ["--reward", "novelty", "--select", rule]
    more = ["--iterations", "4", "--eval-every", "2", "--users-per-batch", "64", "--learning-rate", "1e-3"]
    command = ["finetune", "--init", str(pretrained), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*command, *goal, *more]) == 0
    printed, metrics = capsys.readouterr().out, RunFolder(tmp_path / "run").metrics
    assert set(metrics["after"]) == {
        "recall@10",
        "recall@20",
        "ndcg@10",
        "ndcg@20",
        "novelty@20",
        "coverage@20",
    }
    assert set(metrics["after"]) - set(metrics["paired_bootstrap"]) == {"coverage@20"}
    lines = {line.split()[1]: line for line in printed.splitlines() if line.startswith("│")}
    assert (
        "of all lists together" in lines["coverage@20"]
        and f"{metrics['after']['coverage@20']:.4f}" in printed
    )
    assert f"{metrics['paired_bootstrap']['novelty@20']['low']:+.4f}" in lines["novelty@20"]
    gain, rows = metrics["training"]["valid_gain"], read_log(tmp_path / "run")
    at = next(row for row in rows if row["iteration"] == metrics["training"]["best_iteration"])
    start = next(row for row in rows if row["iteration"] == 0)
    assert gain["mean_difference"] == pytest.approx(at["choice/gain"], abs=1e-6) and at["choice/gain"] > 0
    assert gain["mean_difference"] == pytest.approx(
        at["valid/novelty@20"] - start["valid/novelty@20"], abs=1e-5
    )
    assert gain["high"] - gain["low"] == pytest.approx(2 * 1.96 * at["choice/standard_error"], rel=0.1)
    said = f"Its gain over the start is {gain['mean_difference']:+.4f} (95 % interval over"
    assert said in " ".join(printed.split())
