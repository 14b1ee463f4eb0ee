"""``refit finetune --resume``, and what a run belongs to: its model, its data, one process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from agents.cli import main
from agents.commands.finetune import begun_command
from agents.runs.folder import RunFolder
from refit_env.checkpoint import load_checkpoint, load_state, save_state
from refit_env.data import load_dataset
from refit_env.policy import DiffusionPolicy
from tests.agents.commands.fine_tuning import interrupt, same, words
from tests.files import content_of
from tests.fuzzing import outcomes_of_damage

GOAL = ["--env", "ReFiT-Synthetic-v0", "--reward", "racs"]


def test_resuming_gives_the_run_that_was_not_stopped(
    pretrained: Path,
    tuned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = words(pretrained, tmp_path / "run", "--env", "ReFiT-Synthetic-v0", "--reward", "racs")
    interrupt(monkeypatch, command, before=4)
    assert f"refit finetune --resume --out {tmp_path / 'run'}" in capsys.readouterr().err
    assert main([*command, "--resume", "--seed", "1"]) == 2
    assert "was begun with --seed 0, not 1; leave the option out" in capsys.readouterr().err
    assert main([*command, "--resume", "--reward-options", "alpha=0.25"]) == 2
    assert "was begun without --reward-options alpha, not with 0.25" in capsys.readouterr().err
    assert main([*command, "--resume", "--num-steps", "2"]) == 2
    assert "was begun without --num-steps, not with 2" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    whole, _ = load_checkpoint(tuned)
    parts, _ = load_checkpoint(tmp_path / "run")
    assert all(whole[name].equal(parts[name]) for name in whole)
    assert RunFolder(tmp_path / "run").metrics["before"] == RunFolder(tuned).metrics["before"]
    assert RunFolder(tmp_path / "run").metrics["after"] == RunFolder(tuned).metrics["after"]


def test_a_resumed_run_is_measured_from_the_start_that_it_had(
    pretrained: Path,
    tuned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Another model is in --init by now: the start is in the resume state, and --out alone names it."""
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(pretrained, base)
    interrupt(monkeypatch, words(base, run, *GOAL), before=4)
    other = DiffusionPolicy.load(base)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    other.save(base, overwrite=True)
    assert main(["finetune", "--resume", "--out", str(run), "--quiet", "--device", "cpu"]) == 0
    assert same(run, tuned)
    assert RunFolder(run).metrics["cost"]["pretraining"] == RunFolder(tuned).metrics["cost"]["pretraining"]
    # Where nothing was saved before the kill, the run begins again: from the same model, or not at all.
    interrupt(monkeypatch, words(base, tmp_path / "early", *GOAL, "--other-weights"), before=1)
    assert not (tmp_path / "early" / "resume.safetensors").exists()
    shutil.copy(pretrained / "policy.safetensors", base)
    shutil.copy(pretrained / "policy.json", base)
    capsys.readouterr()
    assert main(["finetune", "--resume", "--out", str(tmp_path / "early")]) == 2
    assert "was begun with the model" in (err := capsys.readouterr().err) and str(base) in err


def test_a_kill_before_the_first_checkpoint_can_be_resumed(
    pretrained: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    interrupt(monkeypatch, words(pretrained, run, *GOAL), before=1)
    assert not (run / "resume.safetensors").exists()
    assert main(["finetune", "--resume", "--out", str(run), "--quiet", "--device", "cpu"]) == 0
    assert same(run, tuned)


def test_ctrl_c_before_the_first_checkpoint_leaves_the_run_that_was_to_be_replaced(
    pretrained: Path,
    tuned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tuned, run)
    before = content_of(run)
    interrupt(monkeypatch, words(pretrained, run, *GOAL, "--overwrite"), before=1)
    assert f"nothing was saved yet: {run} holds the earlier run, as it was" in capsys.readouterr().err
    assert content_of(run) == before


def test_of_all_settings_only_more_iterations_can_be_given(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    more = ["--reward-options", "alpha=0.25"]
    interrupt(monkeypatch, words(pretrained, run, *GOAL, *more), before=4)
    resume = ["finetune", "--resume", "--out", str(run), "--quiet", "--device", "cpu"]
    capsys.readouterr()
    for option, value, message in [
        ("--learning-rate", "0.5", "--learning-rate 0.0003, not 0.5"),
        ("--iterations", "5", "--iterations 6, not 5; leave the option out, or pass a larger number: "),
        ("--reward", "ndcg", "--reward racs, not ndcg"),
        ("--reward-options", "alpha=0.5", "--reward-options alpha 0.25, not 0.5"),
        ("--init", str(tmp_path), "--init"),
        ("--algorithm", "ppo", "--algorithm reinforce, not ppo"),
        ("--overwrite", "", "leave one out"),
    ]:
        assert main([*resume, option, *([value] if value else [])]) == 2, option
        assert message in (err := capsys.readouterr().err) and err.count("\n") == 1
        assert ("leave the option out, or pass a larger number" in err) == (option == "--iterations")
    begun = (run / "resume.safetensors").read_bytes()
    tensors, meta = load_state(run / "resume")
    name = next(name for name in tensors if name.startswith("reference.backbone."))
    save_state(run / "resume", tensors | {name: tensors[name] + 1}, meta)
    assert main(resume) == 2
    assert "resume.safetensors is the state of another training" in capsys.readouterr().err
    (run / "resume.safetensors").write_bytes(begun)
    monkeypatch.chdir(pretrained.parent)  # the same folder by another path is no other setting
    again = ["--init", pretrained.name, "--iterations", "8"]
    assert main([*resume, *again]) == 0
    assert RunFolder(run).config["agent"]["iterations"] == 8
    assert main([*words(pretrained, whole, *GOAL, *more), "--iterations", "8"]) == 0
    assert same(run, whole)


def test_the_pretrained_model_is_never_replaced(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(pretrained, base)
    for command in (words(base, base, "--overwrite"), ["pretrain", "--init", str(base), "--out", str(base)]):
        assert main([*command, "--overwrite"] if "--overwrite" not in command else command) == 2
        assert f"--out {base} is the folder of --init" in capsys.readouterr().err
    reward = ["--reward", "recommender", "--relevance", "train", "--reward-options", f'checkpoint="{base}"']
    assert main(words(pretrained, base, *reward, "--overwrite")) == 2
    assert "is the folder of --reward-options checkpoint" in capsys.readouterr().err
    assert load_checkpoint(base)[0].keys() == load_checkpoint(pretrained)[0].keys()


def test_two_processes_do_not_work_on_one_run(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    interrupt(monkeypatch, words(pretrained, run, *GOAL), before=4)
    resume = ["finetune", "--resume", "--out", str(run), "--quiet", "--device", "cpu"]
    content = (run / "resume.safetensors").read_bytes()
    with RunFolder.resume(run):
        for command in (resume, words(pretrained, run, *GOAL, "--overwrite")):
            assert main(command) == 2
            assert "another process works on the run" in capsys.readouterr().err
    assert (run / "resume.safetensors").read_bytes() == content
    assert main(resume) == 0


def test_a_run_belongs_to_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder is prepared again with another seed: as many users and items, another split."""
    from refit_env.data import save_dataset, synthesize

    data = tmp_path / "shop"
    save_dataset(synthesize(num_users=60, num_items=50), data)
    first = load_dataset(str(data)).fingerprint[:12]
    elbo, run, broken = tmp_path / "elbo", tmp_path / "rl", tmp_path / "broken"
    small = ["--backbone-options", "hidden=[16]", "num_steps=5", "--quiet", "--device", "cpu"]
    assert main(["pretrain", "--data", str(data), "--epochs", "2", "--out", str(elbo), *small]) == 0
    assert main(words(elbo, run)) == 0
    interrupt(monkeypatch, words(elbo, broken), before=4)
    save_dataset(synthesize(seed=1, num_users=60, num_items=50), data, overwrite=True)
    second = load_dataset(str(data)).fingerprint[:12]
    user = ["--user", "3", "--internal-ids"]
    resume = ["finetune", "--resume", "--out", str(broken)]
    for command in (
        ["evaluate", "--run", str(run)],
        ["recommend", "--run", str(run), *user],
        words(elbo, tmp_path / "other"),
        ["pretrain", "--init", str(elbo), "--out", str(tmp_path / "other"), "--quiet"],
        resume,
    ):
        capsys.readouterr()
        assert main(command) == 2, command
        err = capsys.readouterr().err
        assert first in err and second in err and "seed=0" in err and "seed=1" in err, err
        assert ("--other-data" in err) == (command is not resume)
        assert ("--new-data" in err) == (command[0] in ("pretrain", "finetune") and command is not resume)
        assert not (tmp_path / "other").exists()
    assert main(["evaluate", "--run", str(run), "--other-data"]) == 0
    assert main(["recommend", "--run", str(run), *user, "--other-data"]) == 0
    assert main([*words(elbo, tmp_path / "other"), "--other-data"]) == 0
    assert main(["evaluate", "--run", str(tmp_path / "other")]) == 0  # what was tuned on it belongs to it


@pytest.mark.fuzz
def test_what_a_damaged_config_begins_is_refused_or_known(tuned: Path, tmp_path: Path) -> None:
    def read() -> None:
        command = begun_command(tmp_path)
        assert command.agent.iterations >= 0

    damaged = ((tuned / "config.json").read_bytes(), tmp_path / "config.json")
    assert outcomes_of_damage(*damaged, read) == {"refused", "read"}
