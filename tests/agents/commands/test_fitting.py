"""``refit pretrain --backbone linear``: a run folder like any other, from which fine-tuning begins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from agents.cli import main
from agents.commands.options import as_words
from agents.commands.pretrain import Pretrain, with_settings
from agents.runs.folder import RunFolder
from agents.runs.log import read_log
from agents.tuning.settings_file import write_settings
from refit_env.data import save_dataset, synthesize_social
from refit_env.policy import DiffusionPolicy

FIT = [
    "pretrain",
    "--env",
    "ReFiT-Synthetic-v0",
    "--backbone",
    "linear",
    "--quiet",
    "--device",
    "cpu",
    "--out",
]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fit") / "linear"
    assert main([*FIT, str(out)]) == 0
    return out


def test_the_run_folder_is_complete(fitted: Path) -> None:
    names = {path.name for path in fitted.iterdir() if not path.name.startswith(".")}
    assert {
        "config.json",
        "policy.safetensors",
        "policy.json",
        "ids.json",
        "metrics.json",
        "log.csv",
        "curve.png",
    } <= names
    run, rows = RunFolder.open(fitted), read_log(fitted)
    training = run.metrics["training"]
    assert training["trials"] == len(rows) > 5 and training["selected_on"] == "valid ndcg@20"
    assert training["best_value"] in [row["valid/ndcg@20"] for row in rows]
    assert training["best_value"] > rows[0]["valid/ndcg@20"]
    assert run.metrics["valid"]["ndcg@20"] == training["best_value"]
    policy = DiffusionPolicy.load(fitted)
    assert policy.num_steps == 1 and policy.backbone.config_dict() == training["settings"]


def test_fine_tuning_begins_from_it_with_its_rows(fitted: Path, tmp_path: Path) -> None:
    words = ["finetune", "--init", str(fitted), "--out", str(tmp_path / "rl"), "--quiet", "--device", "cpu"]
    assert main([*words, "--reward", "ndcg", "--iterations", "4", "--eval-every", "4"]) == 0
    before, start = RunFolder.open(tmp_path / "rl").metrics["before"], RunFolder.open(fitted).metrics["test"]
    assert before == start


@pytest.mark.parametrize("name", ["spectral", "hybrid"])
def test_the_items_of_friends_are_fine_tuned_with_the_rest(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_dataset(synthesize_social(num_users=60, num_items=40), tmp_path / "data")
    words = ["--data", str(tmp_path / "data"), "--quiet", "--device", "cpu"]
    start, tuned, kept = tmp_path / "start", tmp_path / "rl", ["--learning-rate", "1e-3", "--eval-every", "1"]
    few = ["--epochs", "1"] if name == "hybrid" else []
    options = ["--backbone-options", "friends=0.3", *(["train_base=true"] if name == "hybrid" else [])]
    assert main(["pretrain", "--backbone", name, *options, *few, *words, "--out", str(start)]) == 0
    ways: tuple[tuple[str, ...], ...] = (("--reward", "ndcg"), ("--reward", "racs"))
    for place, reward in enumerate(ways):
        out = tmp_path / f"rl{place}"
        more = [*reward, "--iterations", "3", "--users-per-batch", "16", *kept]
        assert main(["finetune", "--init", str(start), *more, *words, "--out", str(out)]) == 0
    ranked = ["pretrain", "--init", str(start), "--objective", "ranking", "--target", "holdout"]
    ranked += ["--epochs", "1"]
    assert main([*ranked, *words, "--out", str(tuned)]) == 0
    capsys.readouterr()
    for run in (start, tmp_path / "rl0", tuned):
        assert main(["evaluate", "--run", str(run), "--json"]) == 0
        assert main(["recommend", "--run", str(run), "--user", "3", "--json"]) == 0
    assert main(["recommend", "--run", str(start), "--history", "1", "2"]) == 0
    capsys.readouterr()
    for inputs in ("ids", "rows"):
        words = ["export", "--run", str(start), "--format", "torch", "--inputs", inputs]
        assert main([*words, "--out", str(tmp_path / f"{inputs}.pt2")]) == 0
        assert "those of people without friends" in capsys.readouterr().err


def test_a_fit_that_was_killed_begins_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "killed"
    words = [*FIT, str(out), "--backbone-options", "l2=50", "recency=none", "score_power=0", "oldest=0.5"]
    assert main(words) == 0
    assert main(words) == 2  # a finished run is not replaced
    (out / "metrics.json").unlink()
    assert main(["pretrain", "--resume", "--out", str(out), "--quiet", "--device", "cpu"]) == 0
    assert json.loads((out / "metrics.json").read_text())["training"]["settings"]["l2"] == 50


def test_a_wrong_option_makes_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, str(tmp_path / "x"), "--backbone-options", "oldst=0.5"]) == 2
    assert "Did you mean 'oldest'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--select", "ndcg@99"], "found 'ndcg@99'"),
        (["--device", "gpu"], "gpu"),
        (["--backbone-options", "friends=1"], "has no social edges"),
    ],
)
def test_a_mistake_beside_overwrite_leaves_the_run(
    fitted: Path, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(fitted, run)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert main([*FIT, str(run), "--overwrite", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["reach=0"], "--backbone-options reach must be >= 1 and <= 1000, found 0"),
        (["num_steps=0"], "--backbone-options num_steps must be >= 1"),
        (["l2=1", "--backbone-options", "oldest=0.5"], "--backbone-options is given twice"),
    ],
)
def test_a_wrong_value_is_said_of_the_option_that_holds_it(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, str(tmp_path / "x"), "--backbone-options", *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "x").exists()


def test_ctrl_c_names_the_command_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agents.commands.fitting.fit_closed_form", stopped)
    assert main([*FIT, str(tmp_path / "x")]) == 130
    assert f"go on with: refit pretrain --resume --out {tmp_path / 'x'}" in capsys.readouterr().err


def test_an_option_changes_one_of_those_in_a_settings_file(tmp_path: Path) -> None:
    fixed = {"l2": 50.0, "recency": "none", "score_power": 0.0, "oldest": 0.5, "targets": "row"}
    part = {"backbone": "linear", "backbone_options": fixed, "num_steps": None, "training": {}}
    file = tmp_path / "settings.json"
    write_settings(file, {"dataset": {}, "pretrain": part, "finetune": None, "baseline": None})
    words = ["pretrain", "--env", "ReFiT-Synthetic-v0", "--settings", str(file), "--quiet", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "one"), "--backbone-options", "l2=70"]) == 0
    assert RunFolder(tmp_path / "one").config["backbone"] == fixed | {"l2": 70, "name": "linear"}
    default = Pretrain(out=tmp_path)
    assert with_settings(default, file, backbone="linear").backbone_options == as_words(fixed)
    assert with_settings(default, file, backbone="spectral").backbone_options == ()  # the file says nothing


def test_more_training_is_measured_by_the_chain_that_is_saved(fitted: Path, tmp_path: Path) -> None:
    out = tmp_path / "more"
    words = ["pretrain", "--init", str(fitted), "--quiet", "--device", "cpu", "--epochs", "2"]
    assert main([*words, "--out", str(out)]) == 0
    run = RunFolder.open(out)
    start = RunFolder.open(fitted).metrics["valid"]["ndcg@20"]
    assert read_log(out)[0]["valid/ndcg@20"] == pytest.approx(start, abs=1e-6)
    assert run.metrics["valid"]["ndcg@20"] >= start - 1e-6
    assert run.config["pretrain"]["select"] == "ndcg@20"  # the backbone's own default


def test_a_settings_file_is_named_in_what_is_wrong_with_it(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chosen.json"
    part = {"backbone": "linear", "backbone_options": {}, "num_steps": 1, "training": {}}
    content = {"dataset": {"name": "shop", "fingerprint": "0" * 64}, "finetune": None, "baseline": None}
    env = ["--env", "ReFiT-Synthetic-v0", "--device", "cpu", "--settings", str(path)]
    for wrong in (
        {"backbone_options": {"l2": "abc"}},
        {"backbone": "linexr"},
        {"backbone_options": {"l": 1}},
    ):
        write_settings(path, {**content, "pretrain": {**part, **wrong}})
        assert main(["pretrain", *env, "--out", str(tmp_path / "x")]) == 2
        err = capsys.readouterr().err
        assert f"{path}: pretrain: " in err and "--backbone" not in err and err.count("\n") == 1
    write_settings(path, {**content, "pretrain": {**part, "backbone_options": {"l2": 50.0}}})
    few = ["--backbone-options", "recency=none", "score_power=0"]
    assert main(["pretrain", *env, *few, "--out", str(tmp_path / "fit")]) == 0
    assert f"{path}: chosen on the data set 'shop'; this one is 'synthetic'" in capsys.readouterr().err
    more = ["--init", str(fitted), "--epochs", "0", "--out", str(tmp_path / "more")]
    assert main(["pretrain", *env, *more]) == 0
    assert f"{path}: its backbone is left out, --init has one" in capsys.readouterr().err
