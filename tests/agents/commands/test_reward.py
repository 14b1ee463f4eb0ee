"""``refit reward``: the list, and the check of a reward before any training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agents.cli import main
from refit_env.data import save_dataset, synthesize
from refit_env.rewards import registry, reward_names

TEXT = """
def worst(scores, users):
    return -scores.amax(1)

def short(scores, users):
    return scores.mean()

def broken(scores, users):
    return scores[:, 10**6]

def infinite(scores, users):
    return scores.mean(1) / 0

def last(scores, users):
    return scores.amax(1) - scores.amax()
"""
FEW = ["--users", "16", "--samples", "2", "--device", "cpu"]


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "my_reward.py"
    path.write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return path


def test_the_list_has_every_reward(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reward", "list", "--json"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert sorted(found) == reward_names()
    assert found["ndcg"]["list_reward"] is True and found["diversity"]["list_reward"] is False
    assert all(row["about"] for row in found.values())
    assert main(["reward", "list"]) == 0 and "racs" in capsys.readouterr().out


def test_a_registered_reward_and_one_of_ones_own(
    capsys: pytest.CaptureFixture[str], pretrained: Path
) -> None:
    words = [
        "reward",
        "check",
        "racs",
        "--json",
        "--reward-options",
        "alpha=1",
        "--against",
        "r_ra,novelty",
        *FEW,
    ]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["env"] == "ReFiT-Synthetic-v0" and found["passed"] and found["list_reward"]
    assert found["distances"]["r_ra"] == pytest.approx(0.0, abs=1e-3)
    assert (
        main(["reward", "check", "my_reward.py:worst", "--init", str(pretrained), "--against", "ndcg", *FEW])
        == 0
    )
    out = capsys.readouterr().out
    assert "estimator 'score'" in out and "correlation with held-out NDCG" in out


def test_a_registered_reward_of_a_file_is_not_compared_with_itself(
    capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    with file.open("a") as text:
        text.write(
            "from refit_env.rewards import register_reward\nfrom refit_env.rewards.accuracy import Recall\n\n"
            "@register_reward('fresh_recall')\nclass Fresh(Recall):\n    pass\n"
        )
    try:
        assert main(["reward", "check", "my_reward.py:Fresh", "--json", *FEW]) == 0
        distances = json.loads(capsys.readouterr().out)["distances"]
    finally:
        registry._REWARDS.pop("fresh_recall", None)
    assert "fresh_recall" not in distances and "recall" in distances


def test_one_that_is_not_well_formed_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reward", "check", "my_reward.py:last", "--against", "ndcg", *FEW]) == 1
    assert "Not ready: it is not batch independent" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["my_reward.py:wurst"], "my_reward.py has no class or function 'wurst'. Did you mean 'worst'?"),
        (["my_reward.py"], "reward 'my_reward.py' is a file: add the name of the class or function in it"),
        (["rac"], "unknown reward 'rac'. Did you mean 'racs'?"),
        (["my_reward.py:short"], "reward 'my_reward.py:short': ValueError: reward 'short' returned shape ()"),
        (["my_reward.py:broken"], "my_reward.py line 9: IndexError: index 1000000 is"),
        (["my_reward.py:infinite"], "every reward must be finite"),
        (["racs", "--reward-options", "alhpa=1"], "--reward-options alhpa is no setting of reward 'racs'"),
        (["racs", "--reward-options", "k=3"], "--reward-options k is no setting of reward 'racs'"),
        (["racs", "--reward-options", "device=cpu"], "--reward-options device is no setting of reward"),
        ([":worst"], "reward ':worst' should read FILE.py:NAME or package.module:NAME"),
        (["my_reward.py:"], "reward 'my_reward.py:' should read FILE.py:NAME"),
        (["racs", "--against", "ndgc"], "unknown reward 'ndgc'. Did you mean 'ndcg'?"),
        (["racs", "--env", "ReFiT-Synthetik-v0"], "Did you mean 'ReFiT-Synthetic-v0'?"),
        (["racs", "--relevance", "recnt"], "Did you mean 'recent'?"),
        (["racs", "--k", "1000"], "--k must lie in 1..400"),
        (["racs", "--init", "nowhere"], "no run folder"),
    ],
)
def test_mistakes(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reward", "check", *words, *FEW]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_model_of_other_data_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, items in (("other", 24), ("own", 25)):
        save_dataset(replace(synthesize(num_users=30, num_items=items), name=name), tmp_path / name)
    words = ["--backbone", "linear", "--quiet", "--device", "cpu", "--out", "run"]
    assert main(["pretrain", "--data", str(tmp_path / "own"), *words]) == 0
    words = ["reward", "check", "ndcg", "--init", "run", "--data", str(tmp_path / "other")]
    assert main([*words, *FEW]) == 2
    err = capsys.readouterr().err
    assert "the policy ranks 25 items" in err and err.count("\n") == 1
