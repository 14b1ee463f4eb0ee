"""The rule of ``refit tune``: metrics of each user select, any metric may be a condition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from agents.tuning.config import StudySettings
from agents.tuning.inspection import inspect_data
from agents.tuning.study import Study
from refit_env.data import Dataset
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
