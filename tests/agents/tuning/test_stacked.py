"""``stacked`` in a study of rows: it is built on the best closed form, and what was trained is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from agents.tuning.config import StudySettings
from agents.tuning.fine_tunings import FineTunings
from agents.tuning.inspection import inspect_data
from agents.tuning.outcome import outcome_of
from agents.tuning.study import Study
from agents.tuning.trials import NETWORK
from refit_env.backbones import backbone_for
from refit_env.backbones.stacked import StackedDenoiser
from refit_env.data import Dataset


def studied(data: Dataset, folder: Path, minutes: float) -> Study:
    settings = StudySettings(
        minutes=minutes, backbones=("linear", "stacked"), baselines=("popularity",), closed_share=0.05
    )
    made = Study(
        data, inspect_data(data), "ReFiT-Custom-v0", {"data": data}, settings, device=torch.device("cpu")
    )
    made.open(folder)
    made.run()
    return made


@pytest.mark.parametrize("task", ["sequential", "poi"])
def test_the_best_closed_form_is_corrected(
    task_data: dict[str, Dataset], task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FineTunings, "run", lambda self: None)
    monkeypatch.setattr(Study, "left", lambda self: 60.0)
    data = task_data[task]
    made = studied(data, tmp_path, 1.0)
    base, trials = made.best_start("linear"), made.log.of(NETWORK)
    assert base is not None
    assert [trial.settings for trial in trials] == [
        base.settings | {"popularity": flag} for flag in (False, True)
    ]
    best = made.log.best(NETWORK)
    assert best is not None and made.best_start("stacked") == best
    assert all(made.policies.path(t.notes["candidate"]).exists() == (t is best) for t in trials)
    assert best.notes["training"]["max_work"] >= 64
    policy = made.policies.of(best)
    assert isinstance(policy.backbone, StackedDenoiser) and policy.num_steps == 1
    fitted = backbone_for(data, "stacked", best.settings, seed=0)
    assert isinstance(fitted, StackedDenoiser)
    for name in ("base", "apart"):
        ours, theirs = (getattr(one, name).state_dict() for one in (policy.backbone, fitted))
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name
    again = studied(data, tmp_path, 1.0)
    assert len(again.log.trials) == len(made.log.trials)
    assert again.best_start("stacked") == best


def test_the_settings_file_states_how_it_was_trained(
    task_data: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FineTunings, "run", lambda self: None)
    monkeypatch.setattr(Study, "left", lambda self: 60.0)
    made = studied(task_data["sequential"], tmp_path, 1.0)
    best = made.log.best(NETWORK)
    monkeypatch.setattr(Study, "best", lambda self: best)
    found = outcome_of(made)
    assert found.report["verdict"][0].startswith("The best policy is stacked, a closed form with a trained")
    part = found.settings["pretrain"]
    assert best is not None and part["backbone_options"] == best.settings
    assert (part["num_steps"], part["training"]["objective"]) == (1, "ranking")
    assert part["training"]["max_work"] == best.notes["training"]["max_work"]
