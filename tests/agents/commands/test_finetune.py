from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from agents.algorithms.reinforce import Reinforce
from agents.cli import main
from agents.commands.finetune import RewardChoice, begun_command
from agents.commands.measures import comparison
from agents.commands.options import parse_reward
from agents.runs.folder import RunFolder
from agents.runs.log import read_log
from refit_env.checkpoint import load_checkpoint, load_state, save_state
from refit_env.data import Dataset, load_dataset
from refit_env.evaluation import beyond_accuracy
from refit_env.evaluation.ranking import Evaluation, evaluate
from refit_env.policy import DiffusionPolicy
from tests.fuzzing import generators, mutate_json

SMALL = [
    "--users-per-batch",
    "32",
    "--eval-every",
    "2",
    "--learning-rate",
    "3e-4",
    "--quiet",
    "--device",
    "cpu",
]


def words(init: Path, out: Path, *more: str) -> list[str]:
    return ["finetune", "--init", str(init), "--out", str(out), *SMALL, "--iterations", "6", *more]


@pytest.fixture(scope="module")
def tuned(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "rl"
    assert main(words(pretrained, out, "--env", "ReFiT-Synthetic-v0", "--reward", "racs")) == 0
    return out


def interrupt(monkeypatch: pytest.MonkeyPatch, command: list[str], before: int) -> None:
    """Run a command, and end it by Ctrl-C within an iteration."""
    update = Reinforce.update

    def stop(self: Reinforce, users: object) -> dict[str, float]:
        if self.iteration == before - 1:
            raise KeyboardInterrupt
        return update(self, users)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Reinforce, "update", stop)
        assert main(command) == 130


def same(run: Path, other: Path) -> bool:
    mine, theirs = load_checkpoint(run)[0], load_checkpoint(other)[0]
    metrics = [RunFolder(path).metrics for path in (run, other)]
    return all(mine[name].equal(theirs[name]) for name in mine) and all(
        metrics[0][key] == metrics[1][key]  # type: ignore[literal-required]
        for key in ("before", "after", "training")
    )


def test_the_run_folder_is_complete(tuned: Path) -> None:
    names = {path.name for path in tuned.iterdir()}
    assert names == {
        "config.json", "policy.safetensors", "policy.json", "ids.json", "metrics.json",
        "log.csv", "tb", "curve.png",
    }  # fmt: skip
    config = RunFolder(tuned).config
    assert config["env_kwargs"] == {"reward": "racs", "k": 20}
    assert config["agent"]["iterations"] == 6 and config["agent"]["learning_rate"] == 3e-4
    assert [row["iteration"] for row in read_log(tuned)] == list(range(7))


def test_metrics_are_those_of_the_two_policies(pretrained: Path, tuned: Path) -> None:
    metrics = RunFolder(tuned).metrics
    dataset = load_dataset("synthetic")
    for name, run in (("before", pretrained), ("after", tuned)):
        means = evaluate(DiffusionPolicy.load(run).scorer(dataset), dataset).means()
        assert set(metrics[name]) == {"recall@10", "recall@20", "ndcg@10", "ndcg@20"}
        for metric, value in metrics[name].items():
            assert value == pytest.approx(means[metric], abs=1e-6)
    for metric, gain in metrics["relative_gain"].items():
        bootstrap = metrics["paired_bootstrap"][metric]
        assert gain == pytest.approx(metrics["after"][metric] / metrics["before"][metric] - 1, abs=1e-9)
        assert bootstrap["low"] <= bootstrap["mean_difference"] <= bootstrap["high"]
        assert bootstrap["num_users"] == metrics["users"]
    for part in ("pretraining", "finetuning", "evaluation"):
        assert metrics["cost"][part]["seconds"] > 0 and metrics["cost"][part]["peak_memory_mib"] > 50


def test_fine_tuning_changed_the_policy_for_the_better_on_validation(pretrained: Path, tuned: Path) -> None:
    training = RunFolder(tuned).metrics["training"]
    rows = read_log(tuned)
    assert training["best_value"] == max(row.get("valid/ndcg@20", 0.0) for row in rows)
    assert training["best_value"] > rows[0]["valid/ndcg@20"] and training["best_iteration"] > 0
    before, _ = load_checkpoint(pretrained)
    after, _ = load_checkpoint(tuned)
    assert not all(before[name].equal(after[name]) for name in before)


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


def test_a_preset_is_where_the_options_start_from(pretrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "score"
    assert main([*words(pretrained, out, "--preset", "score"), "--samples-per-user", "2"]) == 0
    agent = RunFolder(out).config["agent"]
    assert agent["estimator"] == "score" and agent["baseline"] == "leave_one_out"
    assert agent["samples_per_user"] == 2 and agent["learning_rate"] == 3e-4


def test_another_algorithm_has_settings_of_its_own(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ppo"
    more = ["--algorithm", "ppo", "--preset", "ddpo", "--clip-range", "0.01", "--reward", "ndcg"]
    assert main([*words(pretrained, out, *more), "--samples-per-user", "2"]) == 0
    config = RunFolder(out).config
    assert (config["algorithm"], config["preset"]) == ("ppo", "ddpo")
    assert config["agent"]["clip_range"] == 0.01 and config["agent"]["credit"] == "episode"
    assert config["agent"]["users_per_batch"] == 32  # the option, not the preset
    assert main(words(pretrained, tmp_path / "es", "--algorithm", "es", "--clip-range", "0.1")) == 2
    assert "clip-range" in capsys.readouterr().err


def test_reward_mixes_and_their_settings(pretrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "mix"
    more = ["--reward", "ndcg=1,coverage=0.1", "--relevance", "holdout", "--k", "10"]
    assert main(words(pretrained, out, *more)) == 0
    kwargs = RunFolder(out).config["env_kwargs"]
    assert kwargs == {"reward": {"ndcg": 1, "coverage": 0.1}, "k": 10, "relevance": "holdout"}
    assert any("reward/ndcg" in row for row in read_log(out))
    options = ["--reward-options", "alpha=0.25", "neighbors=5"]
    assert main(words(pretrained, tmp_path / "alpha", *options)) == 0
    assert RunFolder(tmp_path / "alpha").config["env_kwargs"]["reward_kwargs"] == {
        "alpha": 0.25,
        "neighbors": 5,
    }


def test_settings_of_the_relevance(pretrained: Path, tmp_path: Path) -> None:
    runs = [("a", "0.5"), ("b", "0.5"), ("c", "0.1")]
    for name, share in runs:
        command = words(pretrained, tmp_path / name, "--relevance", "recent", "--relevance-options")
        assert main([*command, f"fraction={share}"]) == 0
        assert RunFolder(tmp_path / name).config["env_kwargs"]["relevance_kwargs"] == {
            "fraction": float(share)
        }
    rewards = [read_log(tmp_path / name)[1]["reward/mean"] for name, _ in runs]
    assert rewards[0] == rewards[1] != rewards[2]
    goal = begun_command(tmp_path / "a").goal
    assert goal.relevance_options == ("fraction=0.5",)


def test_own_data_end_to_end(own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, elbo, tuned = ["--data", str(own_data)], str(tmp_path / "elbo"), str(tmp_path / "rl")
    small = ["--backbone-options", "hidden=[16]", "num_steps=5"]
    assert main(["pretrain", *data, "--epochs", "2", "--out", elbo, "--quiet", *small]) == 0
    capsys.readouterr()
    assert main([word for word in [*words(Path(elbo), Path(tuned)), *data] if word != "--quiet"]) == 0
    best = RunFolder(tuned).metrics["training"]["best_iteration"]
    assert f"Iteration {best} of 6 has the best valid ndcg@20" in " ".join(capsys.readouterr().out.split())
    assert main(["evaluate", *data, "--run", tuned, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["env"] == "ReFiT-Custom-v0"
    assert report["metrics"]["ndcg@20"] == pytest.approx(
        RunFolder(tuned).metrics["after"]["ndcg@20"], abs=1e-6
    )
    assert main(["recommend", "--run", tuned, "--user", "3", "--top", "5"]) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--reward", "rac"], "Did you mean 'racs'?"),
        (["--reward", "racs=much"], "is not a number"),
        (["--relevance", "recnt"], "Did you mean 'recent'?"),
        (["--preset", "papper"], "Did you mean 'paper'?"),
        (["--algorithm", "reinforc"], "Did you mean 'reinforce'?"),
        (["--algorithm", "grpo", "--preset", "paper"], "unknown preset of grpo 'paper'. Known: default."),
        (["--estimator", "scor"], "Did you mean 'score'?"),
        (["--reward-options", "alhpa=1"],
         "--reward-options alhpa is no setting of reward 'racs'. Did you mean 'alpha'? Known: alpha"),
        (["--reward-options", "alpha=-1"],
         "--reward-options alpha of reward 'racs' must be >= 0 and <= 1, found -1"),
        (["--reward", "racs=1,coverage=1", "--reward-options", "neighbors=0"],
         "--reward-options neighbors of reward 'racs' must be >= 1"),
        (["--relevance-options", "fracton=1"], "--relevance-options fracton is no setting of relevance. Did"),
        (["--relevance-options", "fraction=2"], "--relevance-options fraction must be > 0 and < 1"),
        (["--reward-options", "alpha=1", "alpha=0"], "--reward-options 'alpha=0': alpha is given twice"),
        (["--reward-options", "alpha"], "--reward-options 'alpha' should read name=value"),
        (["--reward", "racs=1,"], "--reward '' should read name=value"),
        (["--reward-options", "alpha=" + "[" * 10**5], "--reward-options alpha of reward 'racs' must be"),
        (["--reward", "racs=0"], "--reward needs a weight other than 0, found racs=0"),
        (["--exploration-std", "0", "--posterior-share", "0"], "--exploration-std must be > 0: the policy's"),
        (["--env", "ReFiT-Synthetik-v0"], "Did you mean 'ReFiT-Synthetic-v0'?"),
        (["--num-steps", "1000"], "--num-steps must lie in 1.."),
        (["--k", "1000"], "--k must lie in 1..400, the number of items, found 1000"),
        (["--reward-options", "alpha=much"], "--reward-options alpha of reward 'racs' must be a number"),
        (["--reward", "racs=1e300"], "--reward weight of 'racs' must be >= -1000000.0"),
        (["--exploration-std", "1e38"], "--exploration-std must be >= 0 and <= 1000000.0, found 1e+38"),
        (["--reward", "recommender"], "--reward-options checkpoint=FOLDER"),
        (["--reward", "log_rank"], "use estimator 'score'"),
        (["--reward", "r_cos", "--algorithm", "ppo"], "credit 'episode'"),
        (["--scores-learning-rate", "0.1"], "--scores-learning-rate needs estimator 'pathwise'"),
        (["--init", "no-such-run"], "no run folder"),
    ],
)  # fmt: skip
def test_mistakes(
    more: list[str], message: str, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(pretrained, tmp_path / "run", *more)) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert main(words(pretrained, tmp_path / "run")) == 0, "a refused command must not leave a run in the way"


def test_a_policy_of_another_catalogue_is_refused(
    pretrained: Path, own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = [*words(pretrained, tmp_path / "run"), "--data", str(own_data)]
    assert main(other) == 2
    assert "was trained on 'synthetic'" in capsys.readouterr().err
    assert main([*other, "--other-data"]) == 2
    assert "the environment diffuses 50 numbers, the policy 400" in capsys.readouterr().err


def test_comparison_needs_the_same_users(pretrained: Path) -> None:
    dataset = load_dataset("synthetic")
    score = DiffusionPolicy.load(pretrained).scorer(dataset)
    everyone = evaluate(score, dataset)
    half = evaluate(score, dataset, users=everyone.users[::2])
    with pytest.raises(ValueError, match="different users"):
        comparison(everyone, half, dataset)
    assert set(comparison(everyone, everyone, dataset)["relative_gain"].values()) == {0.0}


def test_comparison_measures_beyond_accuracy_once(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset("synthetic")
    everyone = evaluate(DiffusionPolicy.load(pretrained).scorer(dataset), dataset)
    names = ["novelty@20", "ild@20", "entropy@20", "coverage@20"]
    kinds_measured: list[list[str]] = []

    own = beyond_accuracy.beyond_accuracy

    def counted(one: Evaluation, data: Dataset, split: str, kinds: Iterable[str]) -> beyond_accuracy.Beyond:
        kinds_measured.append(list(kinds))
        return own(one, data, split, kinds)

    monkeypatch.setattr(beyond_accuracy, "beyond_accuracy", counted)
    report = comparison(everyone, everyone, dataset, names)
    assert kinds_measured == [["novelty", "ild", "entropy"]] * 2
    assert {"novelty@20", "ild@20"} < set(report["paired_bootstrap"]) and "entropy@20" in report["after"]
    assert not {"entropy@20", "coverage@20"} & set(report["paired_bootstrap"])


def test_the_table_has_the_metrics_of_the_rule_and_the_choice_its_interval(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = "novelty@20 where ndcg@20 >= 0.5 * start and coverage@20 >= 0.01"
    goal = ["--reward", "novelty", "--select", rule]
    more = ["--iterations", "4", "--eval-every", "2", "--users-per-batch", "64", "--learning-rate", "1e-3"]
    command = ["finetune", "--init", str(pretrained), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*command, *goal, *more]) == 0
    printed, metrics = capsys.readouterr().out, RunFolder(tmp_path / "run").metrics
    assert set(metrics["after"]) == {
        "recall@10",
        "recall@20",
        "ndcg@10",
        "ndcg@20",
        "novelty@20",
        "coverage@20",
    }
    assert set(metrics["after"]) - set(metrics["paired_bootstrap"]) == {"coverage@20"}
    lines = {line.split()[1]: line for line in printed.splitlines() if line.startswith("│")}
    assert (
        "of all lists together" in lines["coverage@20"]
        and f"{metrics['after']['coverage@20']:.4f}" in printed
    )
    assert f"{metrics['paired_bootstrap']['novelty@20']['low']:+.4f}" in lines["novelty@20"]
    gain, rows = metrics["training"]["valid_gain"], read_log(tmp_path / "run")
    at = next(row for row in rows if row["iteration"] == metrics["training"]["best_iteration"])
    start = next(row for row in rows if row["iteration"] == 0)
    assert gain["mean_difference"] == pytest.approx(at["choice/gain"], abs=1e-6) and at["choice/gain"] > 0
    assert gain["mean_difference"] == pytest.approx(
        at["valid/novelty@20"] - start["valid/novelty@20"], abs=1e-5
    )
    assert gain["high"] - gain["low"] == pytest.approx(2 * 1.96 * at["choice/standard_error"], rel=0.1)
    said = f"Its gain over the start is {gain['mean_difference']:+.4f} (95 % interval over"
    assert said in " ".join(printed.split())


def test_rewards_on_the_command_line() -> None:
    assert parse_reward("racs") == "racs"
    assert parse_reward("racs=1, coverage=0.5") == {"racs": 1, "coverage": 0.5}
    assert RewardChoice().env_kwargs() == {"k": 20}  # the environment's own
    assert RewardChoice("ndcg", k=5).env_kwargs() == {"k": 5, "reward": "ndcg"}


def test_a_sequential_set_from_nothing_to_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from refit_env.data import save_dataset, synthesize_sessions

    save_dataset(synthesize_sessions(num_sessions=200, num_items=60), tmp_path / "walks")
    first, second, tuned = (str(tmp_path / name) for name in ("elbo", "ranking", "rl"))
    quick = ["--quiet", "--device", "cpu"]
    small = ["--backbone-options", "embedding=16", "num_steps=50"]
    data = ["--data", str(tmp_path / "walks"), "--backbone", "dreamrec"]
    assert main(["pretrain", *data, "--out", first, *quick, "--epochs", "2", "--num-steps", "5", *small]) == 0
    more = ["--init", first, "--objective", "ranking", "--epochs", "2", "--num-steps", "5"]
    assert main(["pretrain", "--out", second, *quick, *more]) == 0
    learn = ["--reward", "log_rank", "--samples-per-user", "2", "--exploration-std", "0.3"]
    assert main(words(Path(second), Path(tuned), *learn)) == 0
    config = RunFolder(tuned).config
    assert config["env_kwargs"]["backbone"] == "dreamrec"
    assert config["env_kwargs"]["checkpoint"] == str(Path(second).resolve())
    capsys.readouterr()
    assert main(["evaluate", "--run", tuned, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"recall@5", "ndcg@10", "recall@20", "ndcg@50"} <= set(report["metrics"])
    assert report["metrics"]["ndcg@20"] == pytest.approx(RunFolder(tuned).metrics["after"]["ndcg@20"])
    assert main(["recommend", "--run", tuned, "--user", "3", "--top", "5"]) == 0
    capsys.readouterr()
    assert main(["pretrain", "--init", first, "--backbone", "dreamrec", "--out", first + "2", *quick]) == 2
    assert "cannot change the trained model" in capsys.readouterr().err


# ---------------------------------------------------------------------- what a run belongs to

GOAL = ["--env", "ReFiT-Synthetic-v0", "--reward", "racs"]


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
    other.save(base)
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
    content, outcomes = (tuned / "config.json").read_bytes(), set()
    for rng in generators():
        (tmp_path / "config.json").write_bytes(mutate_json(content, rng))
        try:
            command = begun_command(tmp_path)
        except ValueError as error:
            assert len(str(error)) < 1000
            outcomes.add("refused")
        else:
            assert command.agent.iterations >= 0
            outcomes.add("read")
    assert outcomes == {"refused", "read"}
