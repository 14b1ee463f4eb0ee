from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.cli import main
from refit_env.data import load_dataset
from refit_env.evaluation import evaluate
from refit_env.policy import DiffusionPolicy


def recommended(
    run: Path, user: int, top: int, capsys: pytest.CaptureFixture[str]
) -> list[dict[str, object]]:
    assert main(["recommend", "--run", str(run), "--user", str(user), "--top", str(top), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["user"] == user
    items: list[dict[str, object]] = report["items"]
    return items


def test_the_list_is_the_evaluated_one(pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = load_dataset("synthetic")
    policy = DiffusionPolicy.load(pretrained)
    lists = evaluate(policy.scorer(dataset), dataset, "valid")  # masks the train items, as recommend does
    for user in (0, 7, 123):
        row = lists.lists[list(lists.users).index(user)]
        items = recommended(pretrained, user, 10, capsys)
        assert [item["item"] for item in items] == row[:10].tolist()


def test_own_items_are_left_out_and_held_out_ones_marked(
    pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = load_dataset("synthetic")
    rest = dataset.num_items - len(dataset.train.of(5))
    items = recommended(pretrained, 5, rest, capsys)  # the whole rest of the catalogue
    assert not {item["item"] for item in items} & set(dataset.train.of(5).tolist())
    marked = {item["item"] for item in items if item["held_out"] == "test"}
    assert marked == set(dataset.test.of(5).tolist())
    scores = [float(str(item["score"])) for item in items]
    assert scores == sorted(scores, reverse=True)


def test_the_table(pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--run", str(pretrained), "--user", "5", "--top", "3"]) == 0
    assert "user 5 of synthetic" in capsys.readouterr().out


@pytest.mark.parametrize(("user", "top"), [("-1", "3"), ("800", "3"), ("5", "0"), ("5", "100000")])
def test_mistakes(pretrained: Path, user: str, top: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--run", str(pretrained), "--user", user, "--top", top]) == 2
    assert "must lie in" in capsys.readouterr().err
