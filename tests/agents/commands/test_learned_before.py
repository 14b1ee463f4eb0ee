"""The note on held-out items that a carried-over model has learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.cli import main
from agents.commands.learned_before import learned_before, learned_counts
from refit_env.data import Dataset, load_dataset, save_dataset, synthesize
from refit_env.data.identity import DataIdentity


def swapped(data: Dataset) -> Dataset:
    """The same data, whose users and items have the reversed numbers."""
    items, users = np.arange(data.num_items)[::-1], np.arange(data.num_users)[::-1]

    def part(split: str) -> object:
        old = data.split(split)
        pairs = users[old.users], items[old.items]
        return type(old).from_pairs(*pairs, data.num_users, data.num_items, old.timestamps)

    later = replace(data, train=part("train"), valid=part("valid"), test=part("test"))
    return replace(later, item_ids=items.copy(), user_ids=users.copy(), meta={"source": "later"})


def test_pairs_are_found_by_their_ids() -> None:
    data = synthesize(num_users=40, num_items=30)
    later = swapped(data)
    assert learned_counts(data, later, validation=False) == {"valid": 0, "test": 0}
    assert learned_counts(data, later, validation=True) == {"valid": len(data.valid), "test": 0}
    moved = replace(later, train=later.valid, valid=later.train)
    assert learned_counts(data, moved, validation=False) == {"valid": len(data.train), "test": 0}
    gone = replace(moved, item_ids=np.arange(1000, 1030))
    assert learned_counts(data, gone, validation=True) == {"valid": 0, "test": 0}


def test_the_note_names_run_and_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = synthesize(num_users=60, num_items=40)
    later = swapped(data)
    for name, each in (("one", data), ("two", replace(later, train=later.valid, valid=later.train))):
        save_dataset(replace(each, name=name), tmp_path / name)
    run, out = tmp_path / "run", tmp_path / "out"
    fit = ["--backbone", "linear", "--backbone-options", "l2=100", "recency=none", "score_power=0"]
    quiet = ["--device", "cpu", "--json"]
    assert main(["pretrain", "--data", str(tmp_path / "one"), *fit, *quiet, "--out", str(run)]) == 0
    capsys.readouterr()
    more = ["--init", str(run), "--data", str(tmp_path / "two"), "--new-data", "--epochs", "0"]
    assert main(["pretrain", *more, *quiet, "--out", str(out)]) == 0
    all_of = f"{len(data.train):,} of {len(data.train):,} validation items of 'two'"
    assert f"note: the model of {run} has learned {all_of}: figures" in capsys.readouterr().err


def test_without_the_former_data_it_says_what_it_knows(tmp_path: Path) -> None:
    data = load_dataset("synthetic")
    known = DataIdentity("gone", "0" * 64, validation=True)
    note = learned_before(tmp_path, known, data)
    assert (
        note is not None and f"the model of {tmp_path} was fitted to the validation items of 'gone'" in note
    )
    assert learned_before(tmp_path, replace(known, validation=False), data) is None
