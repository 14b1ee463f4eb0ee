"""Catalogues of fewer items than a list is usually long."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.cli import main
from agents.commands.finetune_run import pays_every_list_alike
from agents.runs.folder import RunFolder
from refit_env.data import Dataset, Interactions, load_dataset, save_dataset
from refit_env.evaluation.selection import BEYOND
from refit_env.rewards import make_relevance, make_reward

FEW = ["--quiet", "--device", "cpu", "--users-per-batch", "8"]
TRAIN = [*FEW, "--epochs", "2", "--backbone-options", "hidden=[8]"]
TUNE = [*FEW, "--iterations", "2", "--eval-every", "1"]


def catalogue(folder: Path, items: int, users: int = 12) -> Path:
    """Users with two thirds of the items, the last ones held out; the last user has one item."""
    rows: list[list[tuple[int, int]]] = [[], [], []]  # of each split
    for user in range(users):
        own = [(user + n) % items for n in range(max(2, items * 2 // 3))]
        held_out = 1 + user % 2 if len(own) == 2 else 2
        for place, item in enumerate(own):
            split = held_out if place == len(own) - 1 else 1 if place == len(own) - 2 and place else 0
            rows[split].append((user, item))
    rows[0].append((users, 0))
    parts = [
        Interactions.from_pairs(*np.array(part, dtype=np.int64).reshape(-1, 2).T, users + 1, items)
        for part in rows
    ]
    save_dataset(Dataset("small", "cf", *parts, time_ordered=False), folder)
    return folder


@pytest.mark.parametrize(("items", "longest"), [(2, 2), (3, 3), (12, 12), (25, 20)])
def test_every_command_works(
    items: int, longest: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(catalogue(tmp_path / "data", items))]
    base, tuned = str(tmp_path / "base"), str(tmp_path / "tuned")
    lengths = sorted({min(10, items), longest})
    names = {f"{kind}@{k}" for kind in ("recall", "ndcg") for k in lengths}
    assert main(["pretrain", *data, "--out", base, *TRAIN]) == 0
    metrics = RunFolder(base).metrics
    assert set(metrics["test"]) == names and metrics["training"]["selected_on"] == f"valid recall@{longest}"
    capsys.readouterr()
    assert main(["finetune", "--init", base, "--out", tuned, *TUNE, "--relevance", "train"]) == 0
    note = "the reward of every list is the same and nothing can be learnt from it: pass a smaller --k"
    assert (note in capsys.readouterr().err) == (items == longest)
    metrics = RunFolder(tuned).metrics
    assert set(metrics["before"]) == set(metrics["after"]) == names
    assert metrics["training"]["selected_on"] == f"valid ndcg@{longest}"
    assert all((Path(run) / "curve.png").exists() for run in (base, tuned))
    capsys.readouterr()
    assert main(["evaluate", "--run", tuned, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["metrics"]) == names | {f"{name}@{longest}" for name in BEYOND}
    assert main(["recommend", "--run", tuned, "--user=12", "--internal-ids", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["items"]) == min(10, items - 1)


def test_a_metric_of_longer_lists_selects_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(catalogue(tmp_path / "data", 12))]
    assert main(["pretrain", *data, "--out", str(tmp_path / "run"), *TRAIN, "--select", "ndcg@50"]) == 0
    assert RunFolder(tmp_path / "run").metrics["training"]["selected_on"] == "valid ndcg@12"
    assert main(["pretrain", *data, "--out", str(tmp_path / "no"), *TRAIN, "--select", "ndcg@11"]) == 2
    assert (
        "--select must name metrics among recall@10, ndcg@10, recall@12, ndcg@12" in capsys.readouterr().err
    )
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("reward", "k", "alike"),
    [
        ("racs", 12, True),
        ("racs", 11, False),
        ("ndcg", 12, False),
        ({"racs": 1.0, "ndcg": 0.0}, 12, True),
        ({"racs": 1.0, "ndcg": 0.5}, 12, False),
        ("r_cos", 12, False),
    ],
)
def test_rewards_that_pay_every_list_alike(reward: Any, k: int, alike: bool, tmp_path: Path) -> None:
    data = load_dataset(str(catalogue(tmp_path / "data", 12)))
    made = make_reward(reward, data, make_relevance("train", data), k=k)
    assert pays_every_list_alike(made, 12) == alike
    users = torch.arange(4)
    paid = [made(scores, users).value for scores in torch.rand(5, 4, 12)]
    assert all(torch.allclose(one, paid[0], atol=1e-6) for one in paid) == alike


def test_what_cannot_be_evaluated_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_dataset(str(catalogue(tmp_path / "data", 12)))
    for split in ("valid", "test"):
        empty = Interactions.from_pairs([], [], whole.num_users, whole.num_items)
        monkeypatch.setattr(
            "agents.commands.pretrain_run.load_dataset", lambda _, e=empty, s=split: replace(whole, **{s: e})
        )
        assert (
            main(["pretrain", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), *TRAIN]) == 2
        )
        assert (
            f"no user to evaluate: none chosen has relevant items in 'small', {split}"
            in capsys.readouterr().err
        )
    assert not (tmp_path / "run").exists()


def test_a_network_on_few_items_is_compared_with_popularity(tmp_path: Path) -> None:
    data = catalogue(tmp_path / "data", 6)
    words = ["pretrain", "--data", str(data), "--backbone", "diffrec", "--out", str(tmp_path / "run")]
    assert main([*words, *(word for word in TRAIN if word != "--quiet")]) == 0
