"""``refit compare --settings``: what ``refit tune`` chose beside the models of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.cli import main
from agents.commands.comparing_settings import with_tuned
from agents.experiments.records import read_records
from agents.experiments.shipped import study_path
from agents.experiments.study import read_study
from agents.runs.files import RunError
from agents.tuning.defaults import default_finetuning
from agents.tuning.inspection import inspect_data
from refit_env.data import load_dataset
from refit_env.errors import DataError
from tests.tiny_study import STUDY

ENV = "ReFiT-Synthetic-v0"
PRETRAIN = {"backbone": "linear", "backbone_options": {"l2": 7.0}, "num_steps": 1, "training": {}}
FINETUNE = {
    "reward": "racs",
    "relevance": "holdout",
    "reward_kwargs": {},
    "algorithm": "reinforce",
    "agent": {"iterations": 2, "users_per_batch": 8, "relevance_draws": 4},
}


def settings_file(folder: Path, pretrain: dict[str, Any] = PRETRAIN, finetune: Any = FINETUNE) -> Path:
    content = {
        "dataset": {"name": "synthetic"}, "pretrain": pretrain, "finetune": finetune, "baseline": None,
    }  # fmt: skip
    path = folder / "settings.json"
    path.write_text(json.dumps(content))
    return path


def test_the_tuned_model_is_run_beside_those_of_the_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, out = tmp_path / "tiny.yml", tmp_path / "out"
    study.write_text(STUDY)
    chosen = ["--settings", str(settings_file(tmp_path)), "--env", ENV, "--seeds", "1"]
    assert main(["compare", str(study), *chosen, "--out", str(out), "--workers", "1"]) == 0
    found = read_records(out / "tiny.jsonl")
    assert {(record["model"], record["variant"]) for record in found.values()} == {
        (model, variant) for model in ("diffrec", "tuned") for variant in ("pretrained", "reinforce")
    }
    made = found[f"{ENV}_tuned_reinforce_seed0"]["settings"]
    assert (made["backbone"], made["config"]["l2"], made["num_steps"]) == ("linear", 7.0, 1)
    assert made["reinforce"]["env"] == {"reward": "racs", "relevance": "holdout"}
    assert made["reinforce"]["settings"]["users_per_batch"] == 8
    assert made["reinforce"]["settings"]["relevance_draws"] == 4
    assert json.loads((out / "tiny.json").read_text())["command"].count("--settings") == 1
    capsys.readouterr()
    assert main(["compare", str(study), *chosen, "--models", "tuned", "--finished", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "tuned" in shown and "diffrec" not in shown


def test_without_a_fine_tuning_the_defaults_for_the_data_are_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, path = read_study(study_path("rewards")), settings_file(tmp_path, finetune=None)
    found = with_tuned(study, path, [ENV]).place(ENV).models["tuned"]
    assert capsys.readouterr().err == ""
    path.write_text(path.read_text().replace('"synthetic"', '"shop"'))
    with_tuned(study, path, [ENV])
    assert f"chosen on the data set 'shop'; {ENV} has 'synthetic'" in capsys.readouterr().err
    usual = default_finetuning(inspect_data(load_dataset("synthetic")), "linear")
    assert found.env == usual.env and found.relevance_draws == usual.agent.relevance_draws
    assert found.variants["reinforce"]["learning_rate"] == usual.agent.learning_rate


def test_what_is_wrong_is_one_line_that_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = read_study(study_path("backbones"))
    good = settings_file(tmp_path)
    with pytest.raises(ValueError, match=r"--settings .*settings\.json: name the environments .* --env ID"):
        with_tuned(study, good, [])
    with pytest.raises(ValueError, match=f"has a model 'tuned' of {ENV} already"):
        with_tuned(with_tuned(study, good, [ENV]), good, [ENV])
    with pytest.raises(DataError, match=r"settings\.json, options: .*l3"):
        with_tuned(study, settings_file(tmp_path, {**PRETRAIN, "backbone_options": {"l3": 1.0}}), [ENV])
    for part in (
        {"finetune": {**FINETUNE, "reward": "mine.py:Hits"}},
        {"pretrain": {**PRETRAIN, "backbone": "m.py:B"}},
    ):
        with pytest.raises(RunError, match=r"settings\.json names m.*, a file whose code would be run"):
            with_tuned(study, settings_file(tmp_path, **part), [ENV])
    good.write_text("{}")
    assert main(["compare", "backbones", "--settings", str(good), "--env", ENV]) == 2
    said = capsys.readouterr().err
    assert "settings.json" in said and "is missing" in said and "Traceback" not in said
    assert main(["compare", "frontier", "--settings", str(settings_file(tmp_path)), "--env", ENV]) == 2
    assert "is not for frontier" in capsys.readouterr().err
