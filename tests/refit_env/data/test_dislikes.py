"""Ratings below a threshold become a table of their own: split, stored, checked and fingerprinted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from refit_env.data import Dataset, load_dataset, save_dataset
from refit_env.data.canonical import DISLIKES
from refit_env.data.interactions import SPLITS, Interactions
from refit_env.data.prepare import prepare
from refit_env.data.recipe import Recipe
from refit_env.errors import DataError, SettingError

# user, item, stars, time: user a likes 1 .. 5 in this order of time and 6 before all; rates 7, 8, 9 low.
ROWS = [
    ("a", "6", 5, 1), ("a", "1", 4, 10), ("a", "2", 4, 20), ("a", "3", 5, 30), ("a", "4", 4, 40),
    ("a", "5", 4, 50), ("a", "7", 1, 15), ("a", "8", 2, 40), ("a", "9", 1, 60), ("a", "10", 3, 12),
    ("b", "7", 4, 1), ("b", "8", 4, 2), ("b", "9", 5, 3), ("b", "1", 4, 4), ("b", "2", 4, 5),
    ("b", "3", 2, 2), ("b", "3", 5, 9), ("b", "99", 1, 3), ("c", "1", 1, 3),
]  # fmt: skip


def source(folder: Path, rows: list[tuple[str, str, int, int]] = ROWS, times: bool = True) -> Path:
    lines = [
        f"{user},{item},{stars}" + f",{when + 1_500_000_000}" * times for user, item, stars, when in rows
    ]
    path = folder / "shop.csv"
    path.write_text("\n".join(["user,item,rating" + ",timestamp" * times, *lines]) + "\n")
    return path


def ids(dataset: Dataset) -> dict[str, list[tuple[str, str]]]:
    """The dislikes by split, with the source's ids."""
    assert dataset.dislikes is not None
    parts = zip(SPLITS, dataset.dislikes, strict=True)
    return {
        name: [
            (str(dataset.users_by_id.of(int(u))), str(dataset.items_by_id.of(int(i))))
            for u, i in zip(part.users, part.items, strict=True)
        ]
        for name, part in parts
    }


RECIPE = Recipe(format="csv", token_ids=True, split="time", min_rating=4.0, dislike_below=3.0)


def test_dislikes_are_split_by_the_times_of_the_interactions(tmp_path: Path) -> None:
    data = prepare("shop", source(tmp_path), replace(RECIPE, valid_share=0.2))
    # a: validation begins at 40 (item 4), test at 50 (item 5). b likes 3, too; nobody likes 99; c is new.
    assert ids(data) == {"train": [("a", "7")], "valid": [("a", "8")], "test": [("a", "9")]}
    assert not (data.train.csr.multiply(data.disliked("train"))).nnz
    assert "3 dislikes of 6" in data.meta["preparation"]["notes"][-1]


def test_without_a_least_rating_all_other_rows_are_interactions(tmp_path: Path) -> None:
    data = prepare("shop", source(tmp_path), replace(RECIPE, min_rating=None))
    assert "10" in data.items_by_id.take(np.arange(data.num_items)).tolist()  # three stars
    assert ("a", "10") not in [pair for part in ids(data).values() for pair in part]


def test_a_random_split_needs_no_times(tmp_path: Path) -> None:
    rows = [("a", str(item), 5 if item < 30 else 1, 0) for item in range(60)]
    rows += [("b", str(item), 5, 0) for item in range(60)]
    path = source(tmp_path, rows, times=False)
    found = ids(prepare("shop", path, replace(RECIPE, split="random", seed=3)))
    assert [len(found[name]) for name in SPLITS] == [21, 3, 6]
    assert found == ids(prepare("shop", path, replace(RECIPE, split="random", seed=3)))
    assert found != ids(prepare("shop", path, replace(RECIPE, split="random", seed=4)))
    ordered = replace(RECIPE, time_ordered=True)
    with pytest.raises(DataError, match="dislike_below=3 and split='time' need timestamps"):
        prepare("shop", path, ordered)


def test_they_are_stored_and_read_and_fingerprinted(tmp_path: Path) -> None:
    data = prepare("shop", source(tmp_path), replace(RECIPE, valid_share=0.2), tmp_path / "out")
    again = load_dataset(str(tmp_path / "out"))
    assert ids(again) == ids(data) and again.fingerprint == data.fingerprint
    without = replace(data, dislikes=None)
    assert data.dislikes is not None
    train, valid, test = data.dislikes
    moved = replace(data, dislikes=(valid, train, test))
    assert len({data.fingerprint, without.fingerprint, moved.fingerprint}) == 3
    assert data.learning_validation_of(np.array([0])).dislikes is data.dislikes


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"dislike_below": 5.0}, "dislike_below must be <= 4, what min_rating=4 keeps .*, found 5"),
        ({"task": "poi"}, "dislike_below is for sets of items .* not for task='poi'"),
        ({"session": "day"}, "dislike_below is for sets of items .* not for session='day'"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(recipe: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        replace(RECIPE, **recipe)  # type: ignore[arg-type]


def test_ratings_are_needed(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("user,item\n1,2\n")
    with pytest.raises(DataError, match="rating"):
        prepare("shop", tmp_path / "shop.csv", Recipe(format="csv", dislike_below=3.0))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    pairs = Interactions.from_pairs([0, 1], [0, 1], 2, 4)
    train, valid, test = (Interactions.from_pairs([0], [item], 2, 4) for item in (1, 2, 3))
    data = Dataset("shop", "cf", pairs, _part(2), _part(3), False, dislikes=(train, valid, test))
    save_dataset(data, tmp_path / "data")
    return tmp_path / "data"


def _part(item: int) -> Interactions:
    return Interactions.from_pairs([1], [item], 2, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": [0, 2, 3]}, r"dislikes.parquet row 0: user 0 and item 0 are in interactions.parquet, too"),
        ({"item": [1, 2, 9]}, r"dislikes.parquet row 2"),
        ({"split": [0, 1, 7]}, r"dislikes.parquet row 2: split is 7"),
    ],
)
def test_a_table_that_breaks_a_rule_is_refused(
    stored: Path, change: dict[str, list[int]], message: str
) -> None:
    assert load_dataset(str(stored)).dislikes is not None
    table = pd.read_parquet(stored / DISLIKES)
    for column, values in change.items():
        table[column] = np.array(values, table[column].dtype)
    table.to_parquet(stored / DISLIKES, index=False)
    with pytest.raises(DataError, match="sha256"):
        load_dataset(str(stored))
    info = (stored / "dataset.json").read_text()
    (stored / "dataset.json").write_text(info.replace('"sha256"', '"former"'))
    with pytest.raises(DataError, match=message):
        load_dataset(str(stored))
