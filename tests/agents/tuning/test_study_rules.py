"""The rule of ``refit tune``: metrics of each user select, any metric may be a condition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.commands.tune_run import tried_table
from agents.tuning import trying
from agents.tuning.config import StudySettings
from agents.tuning.fine_tunings import FineTunings
from agents.tuning.floor import as_term
from agents.tuning.inspection import inspect_data
from agents.tuning.outcome import summary
from agents.tuning.study import Study
from agents.tuning.trials import BASELINE, CLOSED_FORM, FINE_TUNING, NETWORK, Trial
from agents.tuning.trying import Pace, Training
from refit_env.data import Dataset, synthesize_social
from refit_env.errors import SettingError
from refit_env.evaluation.selection import UNMET


def study(data: Dataset, select: str, folder: Path) -> Study:
    settings = StudySettings(minutes=0.05, select=select, backbones=("linear",), baselines=("popularity",))
    made = Study(
        data, inspect_data(data), "ReFiT-Custom-v0", {"data": data}, settings, device=torch.device("cpu")
    )
    made.open(folder)
    return made


def test_a_metric_of_all_lists_cannot_select_alone(small_data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"select must be a rule .* found 'coverage@20', which may be in"):
        study(small_data, "coverage@20", tmp_path)


def test_trials_that_break_a_condition_are_never_the_best(small_data: Dataset, tmp_path: Path) -> None:
    made = study(small_data, "ndcg@20 where novelty@20 >= 1.0001 * start", tmp_path)
    made.run()
    first, *others = made.log.trials
    assert first.value == UNMET and "novelty@20" in first.valid
    for trial in others:
        assert (trial.value > UNMET) == (trial.valid["novelty@20"] >= 1.0001 * first.valid["novelty@20"])


def test_closed_forms_begin_from_the_best_baselines_and_a_continued_study_from_what_it_chose(
    small_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FineTunings, "run", lambda self: None)

    def of(minutes: float) -> Study:
        settings = StudySettings(minutes=minutes, backbones=("linear",), baselines=("rp3beta", "item-knn"))
        facts, device = inspect_data(small_data), torch.device("cpu")
        made = Study(small_data, facts, "ReFiT-Custom-v0", {"data": small_data}, settings, device=device)
        made.open(tmp_path)
        made.run()
        return made

    made = of(100.0)
    tried = [trial.settings for trial in made.log.of(CLOSED_FORM)]
    for name in ("rp3beta", "item-knn"):
        best = made.log.best(BASELINE, name=name)
        assert best is not None
        wanted = as_term(name, best.settings)
        assert wanted is not None
        near = wanted | {"neighborhood": 1.0}
        assert any({name: settings[name] for name in near} == near for settings in tried), name
    both = [trial for name in ("rp3beta", "item-knn") if (trial := made.log.best(BASELINE, name=name))]
    ranked = sorted(both, key=lambda trial: -trial.value)
    assert made._terms() == [as_term(trial.name, trial.settings) for trial in ranked]  # time may end
    again = of(1e-9)
    assert len(again.log.trials) == len(made.log.trials)
    assert {settings["recency"] for settings in tried} > {"none"}  # a split by time
    chosen = made.best_start("linear")
    assert chosen is not None and chosen == again.best_start("linear")
    assert chosen.settings != tried[0]


def test_weights_of_time_are_not_tried_on_a_random_split(small_data: Dataset, tmp_path: Path) -> None:
    facts, device = replace(inspect_data(small_data), split="random"), torch.device("cpu")
    settings = StudySettings(minutes=0.02, backbones=("linear",), baselines=("popularity",))
    made = Study(small_data, facts, "ReFiT-Custom-v0", {"data": small_data}, settings, device=device)
    made.open(tmp_path)
    made.run()
    tried = [trial.settings for trial in made.log.of(CLOSED_FORM)]
    assert {(settings["recency"], settings["targets"]) for settings in tried} == {("none", "row")}


def test_a_baseline_that_was_refused_has_no_value_in_the_table(small_data: Dataset, tmp_path: Path) -> None:
    made = study(small_data, "ndcg@20", tmp_path)
    made.add(Trial(BASELINE, "slim", {}, 0.0, notes={"refused": "too many items"}))
    made.add(Trial(BASELINE, "ease", {}, 0.0))
    made.add(Trial(BASELINE, "ease", {"l2": 3.0}, 0.2))
    rows = summary(made)
    assert [(row["name"], row["best"], row["settings"]) for row in rows] == [
        ("slim", None, {}),
        ("ease", 0.2, {"l2": 3.0}),
    ]
    table = tried_table({"tried": rows}, "ndcg@20", "shop")
    assert [list(column.cells) for column in table.columns][1::3] == [["ease", "slim"], ["0.2000", "refused"]]


@pytest.mark.parametrize(("behind", "trials"), [(0.1, 1), (0.0, 2)])
def test_a_network_clearly_behind_a_closed_form_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: float, trials: int
) -> None:
    """The second training, with smaller steps, could not reach the closed form."""
    usual = trying.pretraining_of
    monkeypatch.setattr(trying, "pretraining_of", lambda *of: replace(usual(*of), epochs=1, eval_every=1))
    data = synthesize_social(num_users=60, num_items=40)
    settings = StudySettings(minutes=100.0, backbones=("linear", "recdiff"), baselines=("popularity",))
    facts, device = inspect_data(data), torch.device("cpu")
    made = Study(data, facts, "ReFiT-Custom-v0", {"data": data}, settings, device=device)
    made.open(tmp_path)
    made._closed_forms(1e-9)
    count = made.policies.values(made.log.of(CLOSED_FORM)[0]).size
    noise = np.random.default_rng(0).normal(0.0, 0.01, count)
    monkeypatch.setattr(
        made.policies,
        "values",
        lambda trial: 0.3 - behind + noise if trial.stage == NETWORK else 0.3 + 0 * noise,
    )
    made._networks()
    assert len(made.log.of(NETWORK)) == trials


@pytest.mark.parametrize(("update", "wanted"), [(1.0, 200.0), (10.0, 1000.0)])
def test_a_fine_tuning_too_slow_for_its_share_of_the_time_has_all_of_it(
    small_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: float, wanted: float
) -> None:
    """Of 1000 seconds one has 200; the least iterations, 24, need 240 where one needs 10."""
    left, given = [1000.0], []

    def fine_tune(self: Training, policy: Any, chosen: Any, seconds: float) -> dict[str, Any]:
        given.append(seconds)
        left[0] = 0.0
        return {"iterations": 1, "best_iteration": 0, "share": 1.0}

    made = study(small_data, "ndcg@20", tmp_path)
    made._closed_forms(0.4)
    monkeypatch.setattr(Study, "left", lambda self: left[0])
    monkeypatch.setattr(Training, "pace", lambda *args: Pace(update, 0.0))
    monkeypatch.setattr(Training, "fine_tune", fine_tune)
    FineTunings(made).run()
    assert given == pytest.approx([wanted], abs=10.0) and len(made.log.of(FINE_TUNING)) == 1
