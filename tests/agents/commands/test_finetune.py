from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.cli import main
from agents.commands.finetune import RewardChoice, begun_command
from agents.commands.options import parse_reward
from agents.runs.folder import RunFolder
from agents.runs.log import read_log
from refit_env.checkpoint import load_checkpoint
from refit_env.data import load_dataset
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy
from tests.agents.commands.fine_tuning import words


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
        (["--algorithm", "grpo", "--preset", "paper"], "of grpo 'paper'. Known: data, default."),
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
