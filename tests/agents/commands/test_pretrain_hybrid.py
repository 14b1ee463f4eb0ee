"""``refit pretrain --backbone hybrid``: validation chooses the closed form, then the network is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from agents.cli import main
from agents.runs.folder import RunFolder
from agents.runs.log import read_log
from refit_env.backbones.hybrid import HybridDenoiser
from refit_env.data import load_dataset
from refit_env.policy import DiffusionPolicy

WORDS = ["pretrain", "--env", "ReFiT-Synthetic-v0", "--backbone", "hybrid", "--quiet", "--device", "cpu"]
GIVEN = ["recency=none", "targets=row", "score_power=0", "hidden=[8]"]  # leaves l2 to the search
TRAINING = ["--epochs", "2", "--eval-every", "1"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hybrid") / "run"
    assert main([*WORDS, "--out", str(out), *TRAINING, "--backbone-options", *GIVEN]) == 0
    return out


def test_the_start_is_the_chosen_closed_form(pretrained: Path, tmp_path: Path) -> None:
    alone = [word if word != "hybrid" else "linear" for word in WORDS]
    out = tmp_path / "linear"
    assert main([*alone, "--out", str(out), "--backbone-options", *GIVEN[:-1]]) == 0
    linear, rows = RunFolder.open(out).metrics["training"], read_log(pretrained)
    assert RunFolder.open(pretrained).config["base"] == linear["settings"]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert rows[0]["valid/ndcg@20"] == linear["best_value"]
    policy = DiffusionPolicy.load(pretrained)
    assert isinstance(policy.backbone, HybridDenoiser) and policy.num_steps == 1
    closed = DiffusionPolicy.load(out).backbone.state_dict()
    assert all(torch.equal(value, closed[name]) for name, value in policy.backbone.base.state_dict().items())


def test_it_trains_to_rank_and_fine_tuning_moves_the_network_alone(pretrained: Path, tmp_path: Path) -> None:
    out, tuned = tmp_path / "ranking", tmp_path / "tuned"
    ranking = ["--objective", "ranking", "--relevance", "recent", *TRAINING]
    assert main([*WORDS, "--out", str(out), *ranking, "--backbone-options", *GIVEN, "l2=50"]) == 0
    assert RunFolder.open(out).config["base"]["l2"] == 50
    finetune = ["finetune", "--init", str(out), "--out", str(tuned), "--quiet", "--device", "cpu"]
    assert main([*finetune, "--reward", "ndcg", "--iterations", "2", "--eval-every", "2"]) == 0
    before, start = RunFolder.open(tuned).metrics["before"], RunFolder.open(out).metrics["test"]
    assert before == start
    models = [DiffusionPolicy.load(run).backbone.base.state_dict() for run in (out, tuned)]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_a_resumed_run_keeps_the_chosen_settings(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "resumed"
    short = ["--epochs", "1", "--eval-every", "1", "--backbone-options", *GIVEN]
    assert main([*WORDS, "--out", str(out), *short]) == 0
    (out / "metrics.json").unlink()

    def search(*_: object, **__: object) -> None:
        raise AssertionError("the settings are chosen already")

    monkeypatch.setattr("agents.commands.pretrain_run.base_settings", search)
    resume = ["pretrain", "--resume", "--out", str(out), "--quiet", "--device", "cpu"]
    assert main([*resume, "--epochs", "2"]) == 0
    data = load_dataset("synthetic")
    whole, resumed = (DiffusionPolicy.load(run).scorer(data) for run in (pretrained, out))
    assert torch.equal(whole(torch.arange(9)), resumed(torch.arange(9)))
    assert RunFolder.open(out).config["base"] == RunFolder.open(pretrained).config["base"]


def test_damaged_settings_of_a_resumed_run_are_named(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "damaged"
    assert main([*WORDS, "--out", str(out), *TRAINING, "--backbone-options", *GIVEN]) == 0
    (out / "metrics.json").unlink()
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"base": [1]}))
    assert main(["pretrain", "--resume", "--out", str(out), "--quiet", "--device", "cpu"]) == 2
    assert "config.json: base must be an object {...} or null, found a list" in capsys.readouterr().err


def test_a_wrong_option_makes_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x"
    assert main([*WORDS, "--out", str(out), "--backbone-options", "base=liner"]) == 2
    assert "Did you mean 'linear'" in capsys.readouterr().err
    assert not out.exists()
