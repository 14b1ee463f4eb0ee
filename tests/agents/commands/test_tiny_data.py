"""Data of a single user or item: a command works, or says in one line what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agents.cli import main
from agents.tuning.study import Study
from refit_env.data import Dataset, Interactions, save_dataset

QUIET = ["--quiet", "--device", "cpu"]
EVENTS = {
    "one user": [(0, item) for item in range(8)],
    "one user, one item": [(0, 0)] * 8,
    "one item": [(user, 0) for user in range(6) for _ in range(4)],
    "one item in train": [(user, item) for user in range(3) for item in range(3)],
}
"""Pairs of user and item; the last of each user is for test, the one before it for validation."""


def saved(folder: Path, task: str, events: list[tuple[int, int]]) -> Path:
    users, items = np.array(events).T
    left = np.array(
        [(users[at + 1 :] == user).sum() for at, user in enumerate(users)]
    )  # later ones of the user
    parts = [
        Interactions.from_pairs(users[chosen], items[chosen], int(users.max()) + 1, int(items.max()) + 1)
        for chosen in (left > 1, left == 1, left == 0)
    ]
    save_dataset(Dataset("tiny", task, *parts, time_ordered=True), folder)
    return folder


def is_clear(line: str) -> bool:
    """Whether a message is about the data, not about an option."""
    return line.startswith("refit: error:") and "'tiny'" in line and "--" not in line


@pytest.mark.parametrize(
    ("task", "name"),
    [("cf", "one user"), ("cf", "one item in train"), *(("poi", name) for name in EVENTS)],
)
def test_every_backbone_works_or_the_data_is_named(
    task: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(saved(tmp_path / "data", task, EVENTS[name]))]
    for backbone in ("linear", "spectral", "stacked"):
        out, few = str(tmp_path / backbone), ["--epochs", "1"] if backbone == "stacked" else []
        code = main(["pretrain", *data, "--backbone", backbone, "--out", out, *QUIET, *few])
        line = capsys.readouterr().err.strip()
        assert code == 0 or is_clear(line), line
        assert code == 0 or backbone == "stacked" or (task, name) == ("poi", "one item in train"), line
    if (tmp_path / "spectral").exists():
        tuned = ["finetune", "--init", str(tmp_path / "spectral"), "--out", str(tmp_path / "tuned"), *QUIET]
        code = main([*tuned, "--iterations", "1"])
        line = capsys.readouterr().err.strip()
        assert "smaller --k" not in line if name == "one item" else code == 0 or is_clear(line), line


@pytest.mark.parametrize("name", ["one user", "one user, one item"])
def test_a_study_of_one_session_works(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="the extra 'tune' is not installed")
    monkeypatch.setattr(Study, "left", lambda self: 0.0)
    data = str(saved(tmp_path / "data", "sequential", EVENTS[name]))
    few = ["--minutes", "0.02", "--baselines", "popularity"]
    assert main(["tune", "--data", data, "--out", str(tmp_path / "out"), *few, *QUIET]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "[-]" in text and "standard error inf" not in text


@pytest.mark.parametrize(
    ("task", "message"), [("sequential", "needs train rows of several sessions"), ("cf", "'tiny' is cf")]
)
def test_stacked_is_refused_before_its_settings_are_searched(
    task: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def search(*_: object, **__: object) -> None:
        raise AssertionError("the data is refused first")

    monkeypatch.setattr("agents.training.closed_form.fit_closed_form", search)
    data = str(saved(tmp_path / "data", task, EVENTS["one user"]))
    out = str(tmp_path / "out")
    assert main(["pretrain", "--data", data, "--backbone", "stacked", "--out", out, *QUIET]) == 2
    line = capsys.readouterr().err.strip()
    assert is_clear(line) and message in line
