from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from agents.cli import main
from agents.commands.pretrain import Pretrain, begun_command
from agents.commands.pretrain_run import below_popularity
from agents.runs.folder import RunFolder
from agents.runs.log import read_log
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer
from refit_env.checkpoint import load_checkpoint
from refit_env.data import load_dataset
from refit_env.policy import DiffusionPolicy
from tests.fuzzing import outcomes_of_damage

ENV = ["--env", "ReFiT-Synthetic-v0"]
SMALL = ["--quiet", "--device", "cpu", "--backbone-options", "hidden=[32]", "num_steps=10"]


def test_the_run_folder_is_complete(pretrained: Path) -> None:
    run = RunFolder.open(pretrained)
    names = {path.name for path in pretrained.iterdir()}
    assert names == {
        "config.json", "policy.safetensors", "policy.json", "ids.json", "metrics.json",
        "log.csv", "tb", "curve.png",
    }  # fmt: skip
    assert run.config["command"] == "pretrain" and run.config["pretrain"]["epochs"] == 4
    assert set(run.metrics["test"]) == {"recall@10", "recall@20", "ndcg@10", "ndcg@20"}
    assert run.metrics["cost"]["pretraining"]["seconds"] > 0
    assert run.metrics["cost"]["evaluation"]["peak_memory_mib"] > 50
    assert run.metrics["training"]["epochs"] == 4
    rows = read_log(pretrained)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert run.metrics["training"]["best_value"] == max(row.get("valid/recall@20", 0.0) for row in rows)
    meta = json.loads((pretrained / "policy.json").read_text())
    assert meta["backbone_config"]["hidden"] == [32] and meta["num_steps"] == 4


def test_a_seed_gives_the_same_weights(pretrained: Path, tmp_path: Path) -> None:
    words = ["pretrain", *ENV, *SMALL, "--epochs", "4", "--out"]
    assert main([*words, str(tmp_path / "again")]) == 0
    assert main([*words, str(tmp_path / "other"), "--seed", "1"]) == 0
    first, _ = load_checkpoint(pretrained)
    again, _ = load_checkpoint(tmp_path / "again")
    other, _ = load_checkpoint(tmp_path / "other")
    assert all(first[name].equal(again[name]) for name in first)
    assert not all(first[name].equal(other[name]) for name in first)


def test_going_on_keeps_the_chain_of_the_run_that_it_starts_from(pretrained: Path, tmp_path: Path) -> None:
    """A continued control uses the chain of its fine-tuned counterpart, as ``finetune --init`` does."""
    own = {"num_steps": 3, "exploration_std": 0.02, "posterior_share": 0.5, "eta": 0.25}
    start = tmp_path / "start"
    shutil.copytree(pretrained, start)
    DiffusionPolicy(DiffusionPolicy.load(start).backbone, **own).save(start, overwrite=True)
    words = ["pretrain", "--quiet", "--device", "cpu", "--init", str(start), "--epochs", "1", "--out"]
    assert main([*words, str(tmp_path / "same")]) == 0
    assert DiffusionPolicy.load(tmp_path / "same").chain == own
    assert main([*words, str(tmp_path / "other"), "--eta", "1", "--num-steps", "2"]) == 0
    assert DiffusionPolicy.load(tmp_path / "other").chain == own | {"eta": 1.0, "num_steps": 2}


def test_resuming_gives_the_run_that_was_not_stopped(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", *ENV, *SMALL, "--epochs", "4", "--out", str(tmp_path / "run")]
    step = Pretrainer._step

    def stop_in_the_fourth(self: Pretrainer) -> dict[str, float]:
        if self.epoch == 3:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Pretrainer, "_step", stop_in_the_fourth)
        assert main(words) == 130
    assert not RunFolder(tmp_path / "run").finished()
    assert main([*words, "--resume", "--learning-rate", "0.5"]) == 2
    assert "was begun with --learning-rate 0.001, not 0.5; leave the option out" in capsys.readouterr().err
    out = ["--out", str(tmp_path / "run")]
    assert main(["pretrain", "--resume", *out, "--backbone-options", "hidden=[16]"]) == 2
    assert "--backbone-options hidden [32], not [16]" in capsys.readouterr().err
    assert main(["pretrain", "--resume", "--out", str(tmp_path / "run"), "--quiet", "--device", "cpu"]) == 0
    whole, _ = load_checkpoint(pretrained)
    parts, _ = load_checkpoint(tmp_path / "run")
    assert all(whole[name].equal(parts[name]) for name in whole)
    assert [row["epoch"] for row in read_log(tmp_path / "run")] == [0, 1, 2, 3, 4]
    assert main([*words, "--resume"]) == 2
    assert "is finished, and a finished run keeps no state to resume" in capsys.readouterr().err


def test_going_on_from_a_trained_model(pretrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "more"
    words = ["pretrain", "--init", str(pretrained), "--target", "recent", "--epochs", "2", "--out", str(out)]
    assert main([*words, "--quiet", "--device", "cpu"]) == 0
    start = read_log(out)[0]
    before = RunFolder(pretrained).metrics["valid"]
    assert start["valid/recall@20"] == pytest.approx(before["recall@20"])  # epoch 0 is the given model
    assert RunFolder(out).config["env"] == "ReFiT-Synthetic-v0"


def test_a_resumed_run_may_go_on_with_other_data(pretrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "more"
    words = ["pretrain", "--init", str(pretrained), "--other-data", "--epochs", "1", "--out", str(out)]
    assert main([*words, "--quiet", "--device", "cpu"]) == 0
    assert RunFolder(out).config["other_data"] is True
    assert begun_command(out).other_data and not begun_command(pretrained).other_data


def test_own_data(own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine"
    assert main(["pretrain", "--data", str(own_data), "--epochs", "2", "--out", str(out), *SMALL]) == 0
    config = RunFolder(out).config
    assert config["env"] == "ReFiT-Custom-v0" and config["data"] == str(own_data)
    assert main(["evaluate", "--run", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dataset"]


def test_a_model_that_ranks_worse_than_popularity_is_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", *ENV, *SMALL[1:], "--epochs", "1", "--learning-rate"]
    assert main([*words, "1e-9", "--out", str(tmp_path / "idle")]) == 0
    err = capsys.readouterr().err
    assert "note: valid ndcg@20 is 0." in err and "has not learned to rank" in err
    dataset = load_dataset("synthetic")
    assert below_popularity({"ndcg@20": 0.0}, dataset) is not None
    assert below_popularity({"ndcg@20": 1.0}, dataset) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", "ReFiT-Synthetik-v0"], "Did you mean 'ReFiT-Synthetic-v0'?"),
        ([], "say which environment"),
        (["--env", "ReFiT-Custom-v0"], "needs a data set of yours: --data"),
        (["--data", "no-such-folder"], "there is no such folder"),
        (["--env", "ReFiT-ML1M-v0", "--data", "."], "needs ReFiT-Custom-v0"),
        ([*ENV, "--backbone-options", "hiden=[3]"], "Did you mean 'hidden'?"),
        ([*ENV, "--backbone-options", "hidden"], "should read name=value"),
        ([*ENV, "--target", "recant"], "Did you mean 'recent'?"),
        ([*ENV, "--init", "no-such-run"], "no run folder"),
        (
            [*ENV, "--num-steps", "1000"],
            "--num-steps must lie in 1..40, the steps that the backbone",
        ),
        ([*ENV, "--objective", "ranking"], "--target must be recent or holdout for objective 'ranking'"),
        ([*ENV, "--objective=ranking", "--relevance=train"], "--relevance must be recent or holdout for"),
        (
            [*ENV, "--objective", "ranking", "--backbone", "linear", "--relevance", "recent"],
            "--objective must be elbo where backbone 'linear' is fitted in closed form; --init RUN",
        ),
        (
            [*ENV, "--backbone", "linear", "--target", "recent"],
            "--target has no effect where backbone 'linear' is fitted in closed form: leave it out",
        ),
        (
            [*ENV, "--backbone", "spectral", "--epochs", "3"],
            "--epochs has no effect where backbone 'spectral'",
        ),
        ([*ENV, "--eta", "2"], "--eta must be >= 0 and <= 1, found 2.0"),
    ],
)
def test_mistakes(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", *words, "--out", str(tmp_path / "run"), "--quiet"]) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()
    assert err.count("\n") == 1


def test_a_wrong_option_leaves_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--epochz", "3"]) == 2
    assert main(["pretrain", "--help"]) == 0
    assert "--epochs" in capsys.readouterr().out


def test_the_command_has_an_option_for_each_setting() -> None:
    assert Pretrain(out=Path("x"), env="ReFiT-Synthetic-v0").training.epochs > 0


# ---------------------------------------------------------------------- interrupted, and gone on with


def stop_after(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C within the next epoch."""
    step = Pretrainer._step

    def pressed(self: Pretrainer) -> dict[str, float]:
        if self.epoch == epoch:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Pretrainer, "_step", pressed)


def test_ctrl_c_saves_the_epoch_under_way_and_says_how_to_go_on(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["pretrain", *ENV, *SMALL, "--epochs", "4", "--out", str(run)]
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        assert main(words) == 130
    err = capsys.readouterr().err
    assert "refit: interrupted: epoch 3 is saved" in err and f"refit pretrain --resume --out {run}" in err
    assert main(["pretrain", "--resume", "--out", str(run), "--quiet", "--device", "cpu"]) == 0
    whole, parts = load_checkpoint(pretrained)[0], load_checkpoint(run)[0]
    assert all(whole[name].equal(parts[name]) for name in whole)
    assert RunFolder(run).metrics["test"] == RunFolder(pretrained).metrics["test"]


def test_more_epochs_than_before_and_a_kill_before_the_first_checkpoint(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:

        def killed(self: Pretrainer) -> dict[str, float]:
            self._unfinished = True
            raise KeyboardInterrupt

        patch.setattr(Pretrainer, "_step", killed)
        assert main(["pretrain", *ENV, *SMALL, "--epochs", "2", "--out", str(run)]) == 130
    assert "nothing was saved yet" in capsys.readouterr().err
    assert not (run / "pretrain.safetensors").exists()
    resume = ["pretrain", "--resume", "--out", str(run), "--quiet", "--device", "cpu"]
    assert main([*resume, "--epochs", "1"]) == 2
    assert (
        "--epochs 2, not 1; leave the option out, or pass a larger number: --resume uses"
        in capsys.readouterr().err
    )
    assert main([*resume, "--epochs", "4"]) == 0
    whole, parts = load_checkpoint(pretrained)[0], load_checkpoint(run)[0]
    assert all(whole[name].equal(parts[name]) for name in whole)
    assert RunFolder(run).config["pretrain"]["epochs"] == 4


def test_a_run_of_another_command_is_named(pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", "--resume", "--out", str(pretrained)]) == 2
    assert "is a run of pretrain, not of finetune" in capsys.readouterr().err
    assert main(["pretrain", "--resume", "--out", str(pretrained / "gone")]) == 2
    assert "no run folder" in capsys.readouterr().err


@pytest.mark.fuzz
def test_what_a_damaged_config_begins_is_refused_or_known(pretrained: Path, tmp_path: Path) -> None:
    def read() -> None:
        command = begun_command(tmp_path)
        assert isinstance(command.training, PretrainConfig)

    damaged = ((pretrained / "config.json").read_bytes(), tmp_path / "config.json")
    assert outcomes_of_damage(*damaged, read) == {"refused", "read"}
