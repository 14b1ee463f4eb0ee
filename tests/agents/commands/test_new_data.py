"""``--new-data``: the model of one week on the data of the next."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.cli import main
from refit_env.data import save_dataset, synthesize
from refit_env.policy import DiffusionPolicy

CHANGES = "users: 15 new, 45 known, 15 gone; items: 15 new, 30 known, 10 gone"


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of two weeks, in which items have other numbers."""
    folder = tmp_path_factory.mktemp("weeks")
    first = replace(synthesize(num_users=60, num_items=40), item_ids=np.arange(100, 140))
    second = synthesize(seed=1, num_users=60, num_items=45)
    second = replace(second, item_ids=np.arange(110, 155)[::-1].copy(), user_ids=np.arange(15, 75))
    save_dataset(first, folder / "one")
    save_dataset(second, folder / "two")
    return folder / "one", folder / "two"


@pytest.fixture(scope="module")
def start(weeks: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the first week."""
    out = tmp_path_factory.mktemp("start") / "linear"
    options = ["--backbone", "linear", "--backbone-options", "l2=100", "recency=none", "score_power=0"]
    options += ["targets=row", "--device", "cpu", "--quiet"]
    assert main(["pretrain", "--data", str(weeks[0]), "--out", str(out), *options]) == 0
    return out


def test_the_next_week_is_trained_from_the_last_one(
    weeks: tuple[Path, Path], start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--init", str(start), "--data", str(weeks[1]), "--device", "cpu", "--new-data", "--json"]
    out, tuned = tmp_path / "two", tmp_path / "rl"
    assert main(["pretrain", *words, "--epochs", "1", "--learning-rate", "1e-9", "--out", str(out)]) == 0
    assert f"synthetic, compared with the data of {start}: {CHANGES}" in capsys.readouterr().err.replace(
        "\n", " "
    )
    assert json.loads((out / "config.json").read_text())["new_data"] is True
    before = DiffusionPolicy.load(start).backbone.state_dict()["weight"][0]
    after = DiffusionPolicy.load(out).backbone.state_dict()["weight"][0]
    known = slice(15, 45)  # ids 139, 138 ... 110
    assert after.shape == (45, 45)
    np.testing.assert_allclose(after[known, known], before[10:, 10:].flip(0, 1), atol=1e-5)
    assert main(["evaluate", "--run", str(out)]) == 0  # it belongs to the new data
    options = ["--iterations", "1", "--users-per-batch", "8", "--reward", "ndcg", "--relevance", "train"]
    assert main(["finetune", *words, *options, "--out", str(tuned)]) == 0
    assert CHANGES in capsys.readouterr().err.replace("\n", " ")
    assert DiffusionPolicy.load(tuned).backbone.num_items == 45
    for run, command in ((out, "pretrain"), (tuned, "finetune")):  # killed before its first state was saved
        (run / "metrics.json").unlink()
        assert main([command, "--resume", "--out", str(run), "--device", "cpu", "--json"]) == 0
        assert CHANGES in capsys.readouterr().err.replace("\n", " ")
    resumed = DiffusionPolicy.load(out).backbone.state_dict()["weight"][0]
    np.testing.assert_allclose(resumed, after, atol=1e-6)


def test_mistakes_are_refused_in_one_line(
    weeks: tuple[Path, Path], start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--init", str(start), "--data", str(weeks[1]), "--out", str(out), "--quiet"]
    old = tmp_path / "old"
    DiffusionPolicy.load(start).save(old)
    (old / "config.json").write_text((start / "config.json").read_text())
    for command, message in (
        (["pretrain", *words], "Pass --new-data if it is later data"),
        (["finetune", *words], "Pass --new-data if it is later data"),
        (["pretrain", *words, "--new-data", "--other-data"], "leave one out"),
        (["finetune", *words, "--new-data", "--init", str(old)], "ids.json: there is no such file"),
        (["pretrain", *words[2:], "--new-data", "--backbone", "diffrec"], "run folder with --init"),
        (["pretrain", *words[2:], "--new-data", "--backbone", "linear"], "run folder with --init"),
    ):
        capsys.readouterr()
        assert main(command) == 2, command
        err = capsys.readouterr().err
        assert message in " ".join(err.split()), err
        assert not out.exists()
