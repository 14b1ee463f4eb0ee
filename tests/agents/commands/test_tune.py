"""``refit tune``: what it leaves, that it goes on after Ctrl-C, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.cli import main
from agents.commands.tune_run import TrialLines
from agents.runs.folder import RunFolder
from agents.training.pretrainer import Pretrainer
from agents.tuning import fine_tunings, trying
from agents.tuning.defaults import FineTuning
from agents.tuning.outcome import fine_tuning_part
from agents.tuning.settings_file import read_settings, write_settings
from agents.tuning.study import Study
from agents.tuning.trials import BASELINE, CLOSED_FORM, FINE_TUNING, NETWORK, Trial, TrialLog
from agents.tuning.trying import Training
from refit_env.checkpoint import load_checkpoint
from refit_env.data import load_dataset, save_dataset, synthesize_social
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy
from tests.files import content_of

pytest.importorskip("optuna", reason="the extra 'tune' is not installed")

FEW = ["--backbones", "linear", "--baselines", "popularity", "ease", "--device", "cpu"]
QUIET = ["--quiet", "--device", "cpu"]
TUNINGS = 4
"""Number of fine-tunings of a study in these tests: the first points, and one that Optuna proposes."""


@pytest.fixture(autouse=True)
def by_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """End the time after ``TUNINGS`` fine-tunings, so that no machine is too slow."""
    monkeypatch.setattr(Study, "left", lambda self: 600.0 if len(self.log.of(FINE_TUNING)) < TUNINGS else 0.0)
    monkeypatch.setattr(fine_tunings, "MOST", 8)
    monkeypatch.setattr("agents.tuning.trying.MOST", 8)
    monkeypatch.setattr("agents.tuning.trying.LEAST", 1)


def words(data: Path, out: Path, *more: str) -> list[str]:
    return ["tune", "--data", str(data), "--out", str(out), *FEW, *more]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tune")


def test_what_it_leaves(own_data: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = home / "whole"
    assert main(words(own_data, out)) == 0
    printed = capsys.readouterr().out
    assert "split by time" in printed and "The best policy is linear" in printed
    assert "The best baseline is" in printed or "A baseline wins, ease" in printed
    assert {path.name for path in out.iterdir()} == {
        "config.json", "policy.safetensors", "policy.json", "ids.json", "metrics.json",
        "trials.jsonl", "settings.json",
    }  # fmt: skip
    uses = "pretrain and finetune" if read_settings(out / "settings.json")["finetune"] else "pretrain"
    assert f"settings.json, for {uses} --settings" in printed
    log = TrialLog(out)
    assert {trial.name for trial in log.of(BASELINE)} == {"popularity", "ease"}
    assert len(log.of(FINE_TUNING)) == TUNINGS and len(log.of(CLOSED_FORM)) > 5
    rewards = [trial.settings["reward"] for trial in log.of(FINE_TUNING)]
    assert rewards[:2] == ["ndcg", "racs"]


def start_of(log: TrialLog) -> Trial:
    """The closed form that the search of settings chose."""
    options = read_settings(log.path.parent / "settings.json")["pretrain"]["backbone_options"]
    return next(trial for trial in log.of(CLOSED_FORM) if trial.settings == options)


def chosen_of(log: TrialLog) -> Trial:
    """The last fine-tuning that was better than what came before by more than two standard errors."""
    clear = [t for t in log.of(FINE_TUNING) if t.notes["gain"] > 2 * t.notes["standard_error"]]
    assert clear == [trial for trial in log.of(FINE_TUNING) if "candidate" in trial.notes]
    return clear[-1] if clear else start_of(log)


def test_the_table_has_the_metrics_of_the_rule(
    own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = "ndcg@20 where coverage@20 >= 0.1 and novelty@20 >= 0.1"
    assert main(words(own_data, tmp_path / "run", "--select", rule)) == 0
    test = capsys.readouterr().out.partition("Test (")[2]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for found in (metrics["test"], metrics["compared"]["baseline"]["test"]):
        assert all(f" {found[name]:.4f} " in test for name in ("ndcg@20", "coverage@20", "novelty@20"))


def test_the_policy_is_the_best_of_what_was_tried(own_data: Path, home: Path) -> None:
    log, dataset = TrialLog(home / "whole"), load_dataset(str(own_data))
    policy = DiffusionPolicy.load(home / "whole")
    best = chosen_of(log)
    for split, expected in (("valid", best.valid), ("test", RunFolder(home / "whole").metrics["test"])):
        means = evaluate(policy.scorer(dataset), dataset, split).means()
        assert means == pytest.approx(expected, abs=1e-6)
    assert main(["evaluate", "--run", str(home / "whole"), "--json"]) == 0


def test_a_fine_tuning_within_the_noise_of_validation_is_not_chosen(
    own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for errors, chosen in ((-1e9, "fine-tuned"), (1e9, "a closed form")):
        monkeypatch.setattr("refit_env.evaluation.statistics.ERRORS", errors)
        assert main(words(own_data, tmp_path / chosen)) == 0
        printed = capsys.readouterr().out
        assert f"The best policy is linear, {chosen}" in printed
        assert ("No fine-tuning was better than its start by more" in printed) == (errors > 0)
    made = {name: tmp_path / name for name in ("start", "rl", "of the study", "of the runs")}
    again = ["--data", str(own_data), "--settings", str(tmp_path / "fine-tuned" / "settings.json"), *QUIET]
    assert main(["pretrain", *again, "--out", str(made["start"])]) == 0
    assert main(["finetune", *again, "--init", str(made["start"]), "--out", str(made["rl"])]) == 0
    for run, out in ((tmp_path / "fine-tuned", "of the study"), (made["rl"], "of the runs")):
        assert main(["refit", "--run", str(run), "--out", str(made[out]), *QUIET]) == 0
    one, other = (load_checkpoint(made[out])[0] for out in ("of the study", "of the runs"))
    assert all(one[name].equal(value) for name, value in other.items())
    assert not one["weight"].equal(load_checkpoint(tmp_path / "fine-tuned")[0]["weight"])
    closed = tmp_path / "a closed form"
    assert main(["refit", "--run", str(closed), "--out", str(tmp_path / "closed"), *QUIET]) == 0


def test_the_closed_form_is_the_one_that_the_search_of_settings_chose(
    own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No gain exceeds the error here, so the first settings stay, although others have a higher value."""
    monkeypatch.setattr("agents.training.closed_form_search.Trials.error_of", lambda *settings: 1e9)
    monkeypatch.setattr("agents.training.closed_form_search.NEIGHBORHOOD", -1.0)  # no time for it
    monkeypatch.setattr("refit_env.evaluation.statistics.ERRORS", 1e9)
    assert main(words(own_data, tmp_path / "run")) == 0
    log, dataset = TrialLog(tmp_path / "run"), load_dataset(str(own_data))
    first, best = log.of(CLOSED_FORM)[0], log.best(CLOSED_FORM)
    assert best is not None and best.value > first.value
    assert start_of(log) == first
    policy = DiffusionPolicy.load(tmp_path / "run")
    assert evaluate(policy.scorer(dataset), dataset, "valid").means()["ndcg@20"] == pytest.approx(first.value)


def test_ctrl_c_before_the_first_trial_leaves_the_run_that_was_to_be_replaced(
    own_data: Path,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, add = tmp_path / "run", TrialLog.add
    shutil.copytree(home / "whole", out)
    before = content_of(out)

    def stop(self: TrialLog, trial: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrialLog, "add", stop)
        assert main(words(own_data, out, "--overwrite")) == 130
    assert f"no trial has ended yet: {out} holds the earlier run, as it was" in capsys.readouterr().err
    assert content_of(out) == before

    def late(self: TrialLog, trial: Any) -> None:
        add(self, trial)
        self.trials.pop()
        raise KeyboardInterrupt  # it is written, and not yet known

    with monkeypatch.context() as patch:
        patch.setattr(TrialLog, "add", late)
        assert main(words(own_data, out, "--overwrite")) == 130
    err = capsys.readouterr().err
    assert "1 trials are saved" in err and "go on with the same command, without --overwrite" in err
    assert not (out / "metrics.json").exists() and content_of(out / ".earlier") == before


def test_it_goes_on_after_ctrl_c_with_the_same_command(
    own_data: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, add, log = home / "broken", TrialLog.add, TrialLog(home / "whole")
    closed = len(log.of(CLOSED_FORM))
    for at in (3, closed + 1, closed + len(log.of(BASELINE)) + 1):  # within each stage
        with monkeypatch.context() as patch:

            def stop(self: TrialLog, trial: Any, at: int = at) -> None:
                if len(self.trials) >= at:
                    raise KeyboardInterrupt
                add(self, trial)

            patch.setattr(TrialLog, "add", stop)
            assert main(words(own_data, out)) == 130
        err = capsys.readouterr().err
        assert f"{at} trials are saved" in err and "go on with the same command" in err
    assert main(words(own_data, out, "--seed", "1")) == 2
    assert "was begun with --seed 0, not 1: continue it" in capsys.readouterr().err
    assert main(words(own_data, out, "--reward", "racs")) == 2
    assert "was begun without --reward, not with racs: continue it" in capsys.readouterr().err
    assert main(["evaluate", "--run", str(out)]) == 2  # no policy yet
    monkeypatch.chdir(own_data.parent)
    assert main(words(Path(own_data.name), out)) == 0  # the same folder, named from elsewhere
    whole, parts = TrialLog(home / "whole").trials, TrialLog(out).trials
    assert [(t.stage, t.name, t.settings, t.value) for t in parts] == [
        (t.stage, t.name, t.settings, t.value) for t in whole
    ]
    mine, theirs = load_checkpoint(out)[0], load_checkpoint(home / "whole")[0]
    assert all(mine[name].equal(theirs[name]) for name in theirs)


def test_a_finished_run_is_replaced_only_with_overwrite(
    own_data: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (home / "whole" / "trials.jsonl").read_bytes()
    assert main(words(own_data, home / "whole")) == 2
    assert "holds a run already (tune of ReFiT-Custom-v0, seed 0, finished)" in capsys.readouterr().err
    assert (home / "whole" / "trials.jsonl").read_bytes() == before


def test_its_settings_file_makes_the_same_model_again(
    own_data: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = TrialLog(home / "whole")
    best, start = chosen_of(log), start_of(log)
    settings = read_settings(home / "whole" / "settings.json")
    if settings["finetune"] is None:  # within the noise of validation: as if it had been better
        best = log.of(FINE_TUNING)[0]
        settings["finetune"] = fine_tuning_part(best)
    write_settings(tmp_path / "settings.json", settings)
    more = ["--data", str(own_data), "--settings", str(tmp_path / "settings.json"), *QUIET]
    assert main(["pretrain", *more, "--out", str(tmp_path / "start")]) == 0
    made = RunFolder(tmp_path / "start").metrics
    assert made["training"]["trials"] == 1 and made["valid"]["ndcg@20"] == pytest.approx(
        start.value, abs=1e-6
    )
    tuned = ["finetune", *more, "--init", str(tmp_path / "start"), "--out", str(tmp_path / "rl")]
    assert main(tuned) == 0
    assert RunFolder(tmp_path / "rl").metrics["training"]["best_value"] == pytest.approx(best.value, abs=1e-6)
    assert RunFolder(tmp_path / "rl").config["env_kwargs"]["reward"] == best.settings["reward"]
    assert main([*tuned, "--overwrite", "--iterations", "2"]) == 0  # an option changes a single setting
    assert RunFolder(tmp_path / "rl").config["agent"]["iterations"] == 2
    write_settings(
        tmp_path / "settings.json",
        settings | {"finetune": settings["finetune"] | {"reward": "racs", "reward_kwargs": {"alpha": 0.4}}},
    )
    more = ["--overwrite", "--iterations", "1", "--reward-options", "neighbors=5"]
    assert main([*tuned, *more]) == 0  # and one option of the reward, beside the file's
    kwargs = RunFolder(tmp_path / "rl").config["env_kwargs"]
    assert kwargs["reward"] == "racs" and kwargs["reward_kwargs"] == {"alpha": 0.4, "neighbors": 5}
    assert main([*tuned, *more[:3], "--reward", "ndcg"]) == 0  # of another reward the file's say nothing
    assert "reward_kwargs" not in RunFolder(tmp_path / "rl").config["env_kwargs"]
    assert main([*tuned, "--overwrite", "--preset", "paper"]) == 2
    assert "leave out --algorithm, --preset" in capsys.readouterr().err
    write_settings(tmp_path / "settings.json", {**settings, "finetune": None})
    assert main([*tuned, "--overwrite"]) == 2
    assert "settings.json: no fine-tuning was better than its start" in capsys.readouterr().err
    assert RunFolder(tmp_path / "rl").finished()


def test_what_refuses_the_data_is_noted_and_the_rest_is_tried(
    own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("agents.baselines.slim.LARGEST", 10)
    fine_tune = Training.fine_tune

    def without_racs(self: Training, policy: Any, chosen: FineTuning, seconds: float) -> dict[str, Any]:
        if chosen.env["reward"] == "racs":
            raise ValueError("no neighbours")
        return fine_tune(self, policy, chosen, seconds)

    monkeypatch.setattr(Training, "fine_tune", without_racs)
    command = words(own_data, tmp_path / "run")
    command[command.index("ease")] = "slim"
    assert main(command) == 0
    err = capsys.readouterr().err
    assert "baseline slim: refused" in err and "fine-tuning linear: refused: no neighbours" in err
    log = TrialLog(tmp_path / "run")
    best = log.best(BASELINE)
    assert best is not None and best.name == "popularity"  # the refused one has no value
    assert [trial.refused for trial in log.of(FINE_TUNING)][:3] == [False, True, False]


def test_a_network_with_embeddings_is_fine_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = trying.pretraining_of
    monkeypatch.setattr(trying, "pretraining_of", lambda *of: replace(usual(*of), epochs=3, eval_every=1))
    data = synthesize_social(num_users=60, num_items=40)
    save_dataset(data, tmp_path / "data")
    options = [
        "--data",
        str(tmp_path / "data"),
        "--backbones",
        "recdiff",
        "--baselines",
        "popularity",
        *QUIET,
    ]
    assert main(["tune", *options, "--out", str(tmp_path / "run")]) == 0
    rate = usual("recdiff", data).learning_rate
    smaller = pytest.approx(0.3 * rate)
    first, second = TrialLog(tmp_path / "run").of(NETWORK)  # the published step size, and a smaller one
    assert "training" not in first.notes and second.notes["training"] == {"learning_rate": smaller}
    best = max(first, second, key=lambda trial: trial.value)
    part = read_settings(tmp_path / "run" / "settings.json")["pretrain"]["training"]
    assert part["learning_rate"] == (rate if best is first else smaller)
    tried = TrialLog(tmp_path / "run").of(FINE_TUNING)
    assert [trial.notes.get("refused") for trial in tried] == [None] * TUNINGS
    assert all("checkpoint" not in trial.settings for trial in tried)
    assert main(["evaluate", "--run", str(tmp_path / "run"), "--json"]) == 0
    epochs = trained_for(monkeypatch)
    assert main(["refit", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "all"), *QUIET]) == 0
    assert epochs == [best.notes["best_epoch"]]  # of the chosen pretraining: the other has the same settings


def trained_for(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs of each pretraining from now on."""
    learn, epochs = Pretrainer.learn, list[int]()

    def count(self: Pretrainer, *given: Any, **more: Any) -> Any:
        epochs.append(self.config.epochs)
        return learn(self, *given, **more)

    monkeypatch.setattr(Pretrainer, "learn", count)
    return epochs


def test_changed_code_of_a_reward_is_not_run_again(
    own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, run = tmp_path / "mine.py", tmp_path / "run"
    code.write_text("from refit_env.rewards import reward_class\n\n\nclass Mine(reward_class('ndcg')): ...\n")
    assert main(words(own_data, run, "--reward", f"{code}:Mine")) == 0
    code.write_text(code.read_text() + "\nprint('CHANGED')\n")
    capsys.readouterr()
    assert main(["refit", "--run", str(run), "--out", str(tmp_path / "all")]) == 2
    printed = capsys.readouterr()
    assert str(code) in printed.err.replace("\n", "") and "CHANGED" not in printed.out


def test_it_prints_json_and_nothing_else(
    own_data: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(own_data, home / "json", "--json", "--quiet")) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["compared"]) >= {"baseline"} and report["training"]["selected_on"] == "valid ndcg@20"
    assert report["compared"]["baseline"]["paired_bootstrap"]["ndcg@20"]["num_users"] == report["users"]


@pytest.mark.parametrize(
    "more, message",
    [
        (["--backbones", "lineer"], "--backbones lineer: unknown backbone 'lineer'. Did you mean 'linear'?"),
        (["--backbones", "diff-poi"], "--backbones diff-poi: "),
        (["--baselines", "eaze"], "--baselines eaze: unknown baseline 'eaze'. Did you mean 'ease'?"),
        (["--baselines", "markov", "diffnet"], "--baselines diffnet: it needs social edges"),
        (["--closed-share", ".8", "--floor-share", ".8"], "--floor-share must be < 0.2, what --closed-share"),
        (["--minutes", "0"], "--minutes must be > 0"),
        (["--select", "ndgc@20"], "ndgc@20"),
    ],
)
def test_mistakes_leave_no_run(
    own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(["tune", "--data", str(own_data), "--out", str(tmp_path / "run"), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_line_of_a_trial_has_the_settings_that_differ_from_the_best_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = TrialLines()
    for stage, value, settings in (
        (CLOSED_FORM, 0.2, {"l2": 500.0, "recency": "none"}),
        (CLOSED_FORM, 0.1, {"l2": 1000.0, "recency": "none"}),
        (CLOSED_FORM, 0.3, {"l2": 200.0, "recency": "none"}),
        (BASELINE, 0.1, {"l2": 200.0}),
        (CLOSED_FORM, 0.3, {"l2": 200.0, "recency": "share"}),
    ):
        lines(Trial(stage, "linear", settings, value, seconds=1.0))
    found = capsys.readouterr().err.splitlines()
    assert found[0] == "of each trial below: the settings that differ from the best one before it"
    assert found[1:] == [
        "closed form linear: valid 0.2000 (1 s) l2=500 recency=none",
        "closed form linear: valid 0.1000 (1 s) l2=1e+03",
        "closed form linear: valid 0.3000 (1 s) l2=200",
        "baseline linear: valid 0.1000 (1 s) l2=200",
        "closed form linear: valid 0.3000 (1 s) recency=share",
    ]
