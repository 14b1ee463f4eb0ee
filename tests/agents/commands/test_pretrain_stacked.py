"""``stacked`` by the commands: ``pretrain`` and its resumption, ``finetune`` without options, ``tune``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from agents.cli import main
from agents.runs.folder import RunFolder
from agents.tuning import fine_tunings
from agents.tuning.settings_file import read_settings, write_settings
from agents.tuning.study import Study
from agents.tuning.trials import FINE_TUNING, NETWORK, TrialLog
from refit_env.backbones.stacked import StackedDenoiser
from refit_env.data import Dataset, save_dataset, synthesize_sessions
from refit_env.policy import DiffusionPolicy

QUIET = ["--quiet", "--device", "cpu"]
OTHER = ("--other-data", "other_data")
GIVEN = ["recency=reciprocal", "decay=1.0", "neighborhood=0.5", "repeat=0.3", "hidden=4"]


@pytest.fixture(scope="module")
def rows(task_data: dict[str, Dataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows") / "visits"
    save_dataset(task_data["sequential"], folder)
    return folder


def words(rows: Path, out: Path, *more: str) -> list[str]:
    return ["pretrain", "--data", str(rows), "--backbone", "stacked", "--out", str(out), *QUIET, *more]


@pytest.fixture(scope="module")
def pretrained(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stacked") / "run"
    assert main(words(rows, out, "--epochs", "2", "--backbone-options", *GIVEN)) == 0
    return out


def test_it_ranks_by_default_and_a_resumed_run_equals_a_whole_one(
    rows: Path,
    pretrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(words(rows, tmp_path / "no", "--backbone-options", "heldd=.3")) == 2
    assert "--backbone-options heldd is no setting of backbone 'stacked'" in capsys.readouterr().err
    config = RunFolder.open(pretrained).config
    assert config["pretrain"]["objective"] == "ranking" and config["base"]["neighborhood"] == 0.5
    out = tmp_path / "resumed"
    assert main(words(rows, out, "--epochs", "1", "--backbone-options", *GIVEN)) == 0
    (out / "metrics.json").unlink()

    def search(*_: object, **__: object) -> None:
        raise AssertionError("the settings are chosen already")

    monkeypatch.setattr("agents.commands.pretrain_run.base_settings", search)
    assert main(["pretrain", "--resume", "--out", str(out), *QUIET, "--backbone", "linear"]) == 2
    assert "was begun with --backbone stacked, not linear" in " ".join(capsys.readouterr().err.split())
    assert main(["pretrain", "--resume", "--out", str(out), *QUIET, "--epochs", "2"]) == 0
    whole, resumed = (DiffusionPolicy.load(run).state_dict() for run in (pretrained, out))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_it_is_evaluated_and_fine_tuned_by_default(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--run", str(pretrained), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["unit"] == "rows"
    found = report["metrics"]["ndcg@20"]
    assert found == pytest.approx(RunFolder.open(pretrained).metrics["test"]["ndcg@20"])
    out = tmp_path / "rl"
    few = ["--iterations", "2", "--eval-every", "1"]
    assert main(["finetune", "--init", str(pretrained), "--out", str(out), *QUIET, *few]) == 0
    config = RunFolder.open(out).config
    assert config["env_kwargs"]["reward"] == "ndcg" and config["env_kwargs"]["relevance"] == "train"
    agent = config["agent"]
    assert (agent["learning_rate"], agent["exploration_std"], agent["users_per_batch"]) == (2e-3, 0.02, 128)
    before, after = (DiffusionPolicy.load(run).backbone for run in (pretrained, out))
    assert isinstance(before, StackedDenoiser) and isinstance(after, StackedDenoiser)
    assert torch.equal(before.base.weight, after.base.weight)
    assert main(["evaluate", "--run", str(out), "--json"]) == 0


def test_messages_and_pages_count_rows_and_advise_what_rows_have(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "still"
    few = ["--iterations", "1", "--eval-every", "1", "--learning-rate", "0"]
    assert main(["finetune", "--init", str(pretrained), "--out", str(out), "--device", "cpu", *few]) == 0
    said = capsys.readouterr().out
    rows = RunFolder.open(out).metrics["users"]
    assert f"(test, {rows} rows)" in said and "over rows" in said and "users" not in said
    assert "Validation never rose" in said and "another --reward" in said and "--relevance" not in said
    check = ["reward", "check", "recall", "--init", str(pretrained), "--users", "8", "--samples", "2"]
    assert main([*check, "--against", "ndcg", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    words = " ".join(said.split())
    assert "8 rows" in words and "users" not in words and "never differs" in words
    assert main(["report", str(out), "--out", str(tmp_path / "page"), "--explore", "3"]) == 0
    page = (tmp_path / "page" / "report.html").read_text()
    assert (
        "paired bootstrap over rows" in page and "Gain by row" in page and "bootstrap over users" not in page
    )


def test_a_study_fine_tunes_it_and_its_settings_make_it_again(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="the extra 'tune' is not installed")
    monkeypatch.setattr(Study, "left", lambda self: 600.0 if len(self.log.of(FINE_TUNING)) < 3 else 0.0)
    monkeypatch.setattr(fine_tunings, "MOST", 4)
    monkeypatch.setattr("agents.tuning.trying.MOST", 4)
    monkeypatch.setattr("agents.tuning.trying.LEAST", 1)
    monkeypatch.setattr("agents.tuning.study.FIRST", 0.01)
    out = tmp_path / "tuned"
    few = ["--backbones", "linear", "stacked", "--baselines", "popularity", "--closed-share", "0.05"]
    assert main(["tune", "--data", str(rows), "--out", str(out), "--minutes", "1", *few, *QUIET]) == 0
    log = TrialLog(out)
    tuned = [trial for trial in log.of(FINE_TUNING) if trial.name == "stacked"]
    assert tuned and not any(trial.refused for trial in tuned)
    best = log.best(NETWORK, name="stacked")
    assert best is not None
    settings = read_settings(out / "settings.json")
    part = settings["pretrain"] | {"backbone": "stacked", "backbone_options": best.settings, "num_steps": 1}
    part["training"] = {"objective": "ranking", "max_work": 640.0, "epochs": 1}
    write_settings(tmp_path / "settings.json", settings | {"pretrain": part})
    again = ["pretrain", "--data", str(rows), "--settings", str(tmp_path / "settings.json")]
    assert main([*again, "--out", str(tmp_path / "again"), *QUIET]) == 0
    policy = DiffusionPolicy.load(tmp_path / "again")
    assert isinstance(policy.backbone, StackedDenoiser) and policy.num_steps == 1
    assert policy.backbone.config_dict() == {**policy.backbone.config_dict(), **best.settings}


def test_on_other_data_it_ranks_by_the_whole_fit_and_is_trained_where_that_is_later_data(
    rows: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = synthesize_sessions(seed=5, num_sessions=60, num_items=24)
    save_dataset(other, tmp_path / "other")
    policy = DiffusionPolicy.load(pretrained, other_data=True)
    backbone = policy.backbone
    assert isinstance(backbone, StackedDenoiser)
    backbone.apart.weight.data.fill_(7.0)
    held = backbone.may_train_on(other, backbone.config)
    assert held is not None
    users = torch.as_tensor(held).nonzero().flatten()
    shown = backbone.shown(other, "cpu")(users)
    assert shown[:, -1].any()
    unmarked = shown.clone()
    unmarked[:, -1] = 0
    assert torch.equal(policy.recommend_scores(users, shown), policy.recommend_scores(users, unmarked))
    words = ["--init", str(pretrained), "--data", str(tmp_path / "other"), *QUIET]
    for command in ("pretrain", "finetune"):
        for more, message in (
            (["--other-data"], "'stacked' learns on rows that its copy was fitted without"),
            ([], "Pass --new-data if it is later data"),
        ):
            capsys.readouterr()
            assert main([command, *words, *more, "--out", str(tmp_path / "no")]) == 2
            err = " ".join(capsys.readouterr().err.split())
            assert message in err and all(option in more or option not in err for option in OTHER), err
    assert not (tmp_path / "no").exists()
    for command in ("pretrain", "finetune"):  # its closed forms are fitted to the new data, and it is trained
        few = ["--epochs", "1"] if command == "pretrain" else ["--iterations", "1", "--eval-every", "1"]
        assert main([command, *words, "--new-data", *few, "--out", str(tmp_path / command)]) == 0
        carried = DiffusionPolicy.load(tmp_path / command).backbone
        assert isinstance(carried, StackedDenoiser) and not carried.base.weight.equal(backbone.base.weight)
    evaluated = ["evaluate", "--run", str(pretrained), "--data", str(tmp_path / "other"), "--other-data"]
    assert main([*evaluated, "--reward", "ndcg"]) == 0
    same = ["finetune", "--init", str(pretrained), "--data", str(rows), "--other-data", *QUIET]
    few = ["--iterations", "1", "--eval-every", "1"]
    assert main([*same, *few, "--out", str(tmp_path / "same")]) == 0
