"""Defaults that depend on the data: when they apply, what they are, and that options go before them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.cli import main
from agents.commands.data_defaults import backbone_of_data, finetuning_of_data
from agents.commands.finetune import begun_command
from agents.commands.options import named
from agents.runs.folder import RunFolder
from agents.runs.log import read_log
from refit_env.policy import DiffusionPolicy


def test_own_data_without_a_backbone_gets_a_closed_form(
    own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "start"
    assert main(["pretrain", "--data", str(own_data), "--out", str(out), "--device", "cpu"]) == 0
    assert "backbone linear: a closed form; 50 items are at most 10,000" in capsys.readouterr().err
    assert DiffusionPolicy.load(out).backbone.name == RunFolder(out).config["backbone"]["name"] == "linear"
    assert RunFolder(out).metrics["training"]["trials"] > 1


@pytest.mark.parametrize(
    "words",
    [
        ["--backbone", "diffrec"],
        ["--epochs", "3"],
        ["--training.learning-rate=1e-4"],
        ["--backbone-options", "hidden=[8]"],
        ["--init", "runs/start"],
        ["--help"],
    ],
)
def test_options_of_a_network_go_before_it(own_data: Path, words: list[str]) -> None:
    assert backbone_of_data(words, str(own_data)) is None
    assert backbone_of_data(["--seed", "1", "--select", "recall@20"], str(own_data)) is not None


def test_a_named_environment_keeps_its_backbone(pretrained: Path) -> None:
    assert backbone_of_data([], None) is None
    assert DiffusionPolicy.load(pretrained).backbone.name == "diffrec"


def words_of(pretrained: Path, out: Path, *more: str) -> list[str]:
    few = ["--iterations", "2", "--users-per-batch", "16", "--device", "cpu"]
    return ["finetune", "--init", str(pretrained), "--out", str(out), *few, *more]


def test_fine_tuning_without_a_reward_follows_the_data(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rl"
    assert main(words_of(pretrained, out)) == 0
    assert "reward ndcg, relevance recent: the split is by time" in capsys.readouterr().err
    config = RunFolder(out).config
    assert config["preset"] == "data" and config["env_kwargs"]["relevance"] == "recent"
    agent = config["agent"]
    assert (agent["learning_rate"], agent["anneal_lr"], agent["blends"]) == (3e-5, True, 3)
    assert (agent["iterations"], agent["users_per_batch"]) == (2, 16)  # the options
    assert begun_command(out).preset == "data"  # --resume uses the stored preset
    start = read_log(out)[0]["valid/ndcg@20"]
    assert RunFolder(out).metrics["training"]["best_value"] >= start  # never worse than the start


OTHERS = [["--reward", "racs"], ["--relevance", "holdout"], ["--preset", "default"], ["--algorithm", "rwr"]]


@pytest.mark.parametrize("more", OTHERS)
def test_what_is_named_goes_before_the_data(pretrained: Path, tmp_path: Path, more: list[str]) -> None:
    out = tmp_path / "rl"
    assert main([*words_of(pretrained, out, *more), "--quiet"]) == 0
    config = RunFolder(out).config
    assert config["preset"] == "default" and not config["agent"]["anneal_lr"]


def test_the_preset_can_be_named_beside_a_reward(pretrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "rl"
    assert main([*words_of(pretrained, out, "--preset", "data", "--reward", "racs"), "--quiet"]) == 0
    config = RunFolder(out).config
    assert config["env_kwargs"]["reward"] == "racs" and config["agent"]["anneal_lr"]


def test_what_cannot_be_read_is_the_commands_own_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetuning_of_data(None, None, str(tmp_path)) is None
    assert main(["finetune", "--init", str(tmp_path / "none"), "--out", str(tmp_path / "rl")]) == 2
    assert "no run folder" in capsys.readouterr().err
    assert main(["pretrain", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "rl")]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_a_mistyped_name_of_an_own_set_gets_a_suggestion(
    own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REFIT_DATA_HOME", str(own_data.parent))
    assert main(["pretrain", "--data", "shp", "--out", str(tmp_path / "rl")]) == 2
    assert "nor such a set in the data homes. Did you mean 'shop'?" in capsys.readouterr().err


def test_names_among_words() -> None:
    assert named(["--agent.learning-rate=1"], "learning_rate") and named(["-h"])
    assert not named(["--data", "learning-rate"], "learning_rate")
