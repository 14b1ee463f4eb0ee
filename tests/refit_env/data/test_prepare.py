from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from refit_env.data import Dataset, load_canonical, load_dataset
from refit_env.data.catalog import CATALOG
from refit_env.data.home import find_dataset, find_raw
from refit_env.data.interactions import SPLITS
from refit_env.data.prepare import prepare
from refit_env.data.recipe import Recipe
from refit_env.errors import DataError

Write = Callable[[str, str | bytes], Path]
CSV = "user,item,rating,timestamp\n"
START = 1_500_000_000


def lines(users: int, items: int) -> str:
    """Every user rates every item, one per second."""
    rows = ((u, i) for u in range(users) for i in range(items))
    return CSV + "".join(f"{u * 10},{i * 10},{i % 5 + 1},{START + i}\n" for u, i in rows)


def pairs(data: Dataset, split: str) -> list[tuple[int, int]]:
    part = data.split(split)
    return list(zip(part.users.tolist(), part.items.tolist(), strict=True))


def test_ml1m_from_diffrecs_lists_is_the_canonical_one(data_home: Path, tmp_path: Path) -> None:
    raw, canonical = find_raw(CATALOG["ml-1m"]), find_dataset("ml-1m")
    if raw is None or canonical is None:
        pytest.skip(f"ml-1m and its raw lists are not in {data_home}")
    made, published = prepare("ml-1m", raw, out=tmp_path / "ml-1m"), load_canonical(canonical)
    again = load_canonical(tmp_path / "ml-1m")
    for split in SPLITS:
        for name in ("indptr", "items"):
            want = getattr(published.split(split), name)
            assert np.array_equal(getattr(made.split(split), name), want)
            assert np.array_equal(getattr(again.split(split), name), want)
    assert made.time_ordered and again.time_ordered


def test_ml100k_is_prepared_from_u_data(data_home: Path, tmp_path: Path) -> None:
    raw = find_raw(CATALOG["ml-100k"])
    if raw is None:
        pytest.skip(f"raw/ml-100k/u.data is not in {data_home}")
    data = prepare("ml-100k", raw, out=tmp_path / "ml-100k")
    table = pd.read_csv(raw / "u.data", sep="\t", names=["user", "item", "rating", "time"])
    good = table[table.rating >= 4]
    assert (data.num_users, data.num_items) == (good.user.nunique(), good.item.nunique())
    assert sum(len(data.split(s)) for s in SPLITS) == len(good)
    ratings = data.train.ratings
    assert ratings is not None and ratings.min() == 4
    shares = [len(data.split(s)) / len(good) for s in SPLITS]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.005)
    times = {(u, i): t for u, i, t in zip(good.user, good.item, good.time, strict=True)}
    users, items = np.unique(good.user), np.unique(good.item)
    stamps = data.test.timestamps
    assert stamps is not None
    for (user, item), time in list(zip(pairs(data, "test"), stamps, strict=True))[:500]:
        assert times[users[user], items[item]] == time


def test_a_truncated_download_is_detected_by_its_counts(data_home: Path, write: Write) -> None:
    raw = find_raw(CATALOG["ml-100k"])
    if raw is None:
        pytest.skip(f"raw/ml-100k/u.data is not in {data_home}")
    whole = (raw / "u.data").read_bytes()
    path = write("u.data", whole[: whole.index(b"\n", len(whole) // 2) + 1])  # at the end of a line
    with pytest.raises(DataError, match=r"u\.data: ml-100k has 942 users.*Truncated, or another version\?"):
        prepare("ml-100k", path, out=path.parent / "out")
    assert not (path.parent / "out").exists()


def test_steps_are_counted(write: Write, tmp_path: Path) -> None:
    path = write("ratings.csv", lines(4, 10) + f"0,0,5,{START + 99}\n70,10,5,{START}\n")
    data = prepare("shop", path, Recipe(min_rating=2, k_core=2), tmp_path / "shop")
    assert data.meta["preparation"]["rows"] == {
        "read": 42,
        "rating >= 2": 34,
        "0 duplicates merged": 34,
        "2-core": 32,
    }
    assert list(data.meta["preparation"]["users"].values()) == [5, 5, 5, 4]
    assert list(data.meta["preparation"]["items"].values()) == [10, 9, 9, 8]
    assert load_dataset(tmp_path / "shop").meta["preparation"]["recipe"]["format"] == "csv"


def test_duplicates_are_merged_and_counted_but_events_are_kept(write: Write) -> None:
    path = write("ratings.csv", lines(3, 10) + f"0,0,5,{START - 1}\n")
    data = prepare("shop", path, Recipe(split="time"))
    assert data.meta["preparation"]["rows"]["1 duplicates merged"] == 30
    assert data.train.timestamps is not None and data.train.timestamps[0] == START - 1  # the earliest is kept
    assert len(prepare("shop", path, Recipe(split="time", task="sequential")).train) == len(data.train) + 1


def test_the_sources_own_ids_are_kept(write: Write, tmp_path: Path) -> None:
    path = write("log.csv", "user,item\n" + "".join(f"{'ab'[n % 2]},item {n // 2:02d}\n" for n in range(40)))
    prepare("shop", path, Recipe(token_ids=True), tmp_path / "shop")
    data = load_dataset(tmp_path / "shop")
    assert data.user_ids is not None and data.user_ids.tolist() == ["a", "b"]
    assert data.item_ids is not None and data.item_ids[7] == "item 07"
    pd.DataFrame({"id": ["a"]}).to_parquet(tmp_path / "shop" / "user_ids.parquet")
    info = json.loads((tmp_path / "shop" / "dataset.json").read_text())
    (tmp_path / "shop" / "dataset.json").write_text(json.dumps(info | {"sha256": {}}))
    with pytest.raises(
        DataError, match=r"user_ids\.parquet: expected 2 rows of one column 'id', found 1 rows"
    ):
        load_dataset(tmp_path / "shop")


def test_split_by_time_and_leave_one_out(write: Write) -> None:
    path = write("ratings.csv", lines(2, 10))
    data = prepare("shop", path, Recipe(split="time"))
    assert [pairs(data, s)[:7] for s in SPLITS] == [
        [(0, i) for i in range(7)],
        [(0, 7), (1, 7)],
        [(0, 8), (0, 9), (1, 8), (1, 9)],
    ]
    data = prepare("shop", path, Recipe(split="leave-one-out"))
    assert [pairs(data, s) for s in SPLITS[1:]] == [[(0, 8), (1, 8)], [(0, 9), (1, 9)]]


def test_published_splits_keep_ids_and_get_a_validation_part(write: Write) -> None:
    write("train.txt", "0 " + " ".join(map(str, range(20))) + "\n2 5 6 7 8 9 10\n")
    path = write("test.txt", "0 21\n2 20\n")
    data = prepare("shop", path.parent, Recipe(split="published"))
    assert (data.num_users, data.num_items) == (3, 22)  # user 1 has no rows and keeps its number
    assert pairs(data, "test") == [(0, 21), (2, 20)]
    assert len(data.valid) == 3 and len(data.train) == 23
    with pytest.raises(DataError, match=r"train\.txt interaction 20: user 2 is outside 0\.\.1 "):
        prepare("shop", path.parent, Recipe(split="published", num_users=2))
    with pytest.raises(DataError, match=r"test\.txt interaction 0: item 21 is outside 0\.\.19 \(num_items\)"):
        prepare("shop", path.parent, Recipe(split="published", num_items=20))


def test_a_user_without_train_items_is_refused(write: Write) -> None:
    write("train.txt", "0 1 2 3 4 5 6 7 8 9 10\n")
    path = write("test.txt", "0 11\n3 4\n")
    with pytest.raises(DataError, match=r"user 3 .* has no train items"):
        prepare("shop", path.parent, Recipe(split="published"))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(split="published"), "the files are not split; use random"),
        (Recipe(split="time"), "needs timestamps"),
        (Recipe(split="leave-one-out"), "needs timestamps"),
        (Recipe(min_rating=3), "min_rating=3 needs ratings"),
        (Recipe(k_core=50), "no rows are left; rows after each step: read [0-9,]+, .*, 50-core 0$"),
        (
            Recipe(valid_share=0),
            r"the valid split is empty: no user has enough rows for valid_share=0, ",
        ),
        (Recipe(test_share=0.01), r"the test split is empty: no user has enough rows for test_share=0\.01"),
    ],
)
def test_recipes_that_cannot_be_followed(recipe: Recipe, message: str, write: Write) -> None:
    path = write("ratings.csv", "user,item\n" + "".join(f"{n % 3},{n}\n" for n in range(60)))
    with pytest.raises(DataError, match=message) as caught:
        prepare("shop", path, recipe)
    assert "ratings" in str(caught.value)


def test_unknown_values_in_a_recipe() -> None:
    with pytest.raises(ValueError, match="Did you mean 'random'"):
        Recipe(split="randon")
    with pytest.raises(ValueError, match="task must be one of cf"):
        Recipe(task="chess")


PREPARE = """
import os, sys, time
from pathlib import Path
import refit_env.data.prepare as room
from refit_env.data import load_dataset
from refit_env.data.catalog import CATALOG, Source
from refit_env.data.recipe import Recipe
from refit_env.data.recipes import RECIPES, NamedRecipe

CATALOG["shop"] = Source("shop", "cf", "page", "mine", False)
RECIPES["shop"] = NamedRecipe("shop", "nobody's", {"shop": ("ratings.csv",)}, Recipe(format="csv"))
home, original = Path(os.environ["REFIT_DATA_HOME"]), room.prepare

def noted(*arguments, **settings):
    (home / f"prepared-by-{os.getpid()}").touch()
    return original(*arguments, **settings)

room.prepare = noted
print("ready", flush=True)
while not (home / "go").exists():
    time.sleep(0.001)
data = load_dataset("shop")
print(data.num_users, sum(len(data.split(s)) for s in ("train", "valid", "test")))
"""


def test_two_processes_prepare_the_same_set_at_once(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("raw/shop/ratings.csv", lines(2000, 50))
    monkeypatch.setenv("REFIT_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    both = [
        subprocess.Popen([sys.executable, "-c", PREPARE], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        ready = [process.stdout.readline() for process in both if process.stdout is not None]
        (tmp_path / "go").touch()
        for process in both:
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out) == (0, b"2000 100000\n"), err.decode()
        assert ready == [b"ready\n"] * 2
    finally:
        for process in both:
            process.kill()
    assert (
        len(list(tmp_path.glob("prepared-by-*"))) == 1
    )  # the second process waited, and used the first one's result
    assert len(load_dataset(tmp_path / "shop").train) == 70_000
    assert not [path for path in (tmp_path / "shop").iterdir() if path.name.startswith(".")]


def test_a_random_split_of_rows_in_order_needs_times(tmp_path: Path) -> None:
    """Else the held-out items would have no place among the others, and count as the newest."""
    path = tmp_path / "ordered.csv"
    path.write_text("user,item\n" + "".join(f"{n // 9},{n % 9}\n" for n in range(45)))
    with pytest.raises(DataError, match="would lose the places of the held-out items"):
        prepare("shop", path, Recipe(time_ordered=True, split="random"), tmp_path / "shop")
    assert not (tmp_path / "shop").exists()
    assert prepare("shop", path, Recipe(time_ordered=True, split="time"), tmp_path / "shop").time_ordered


def equal_times(users: int, equal: int) -> str:
    """Write ten rows of each user; the times of the first ``equal`` users do not differ."""
    rows = ((u, i) for u in range(users) for i in range(10))
    return CSV + "".join(f"{u},{i},5,{START + u + (0 if u < equal else 60 * i)}\n" for u, i in rows)


@pytest.mark.parametrize("split", ["time", "leave-one-out", "quantile", "sessions"])
def test_a_split_by_time_of_equal_times_is_refused(split: str, write: Write) -> None:
    path = write("log.csv", CSV + "".join(f"{n // 10},{n % 10},5,{START}\n" for n in range(100)))
    what = "all 10 sessions begin at" if split == "sessions" else "all 100 rows have"
    with pytest.raises(
        DataError, match=f"log.csv: split='{split}' needs different times, but {what} the same"
    ):
        prepare("shop", path, Recipe(split=split, task="sequential" if split == "sessions" else "cf"))
    assert len(prepare("shop", path, Recipe(split="random")).train) == 70
    stated = prepare("shop", path, Recipe(split="time", time_ordered=True))
    assert stated.test.of(0).tolist() == [8, 9]


@pytest.mark.parametrize(
    "split, end", [("time", "they are split in the order of the file"), ("quantile", "all of them are test")]
)
def test_users_whose_times_are_all_equal_are_reported(split: str, end: str, write: Write) -> None:
    recipe = Recipe(split=split, task="poi", ignore=("rating",))
    notes = prepare("shop", write("log.csv", equal_times(8, 2)), recipe).meta["preparation"]["notes"]
    assert notes == [f"the times of 2 of 8 users with several rows (25.0%) are all equal: {end}"]
    assert "notes" not in prepare("shop", write("log.csv", equal_times(8, 0)), recipe).meta["preparation"]


def test_whole_users_are_held_out_only_of_sessions() -> None:
    with pytest.raises(
        ValueError, match="split sessions holds out whole users, of whose items task='cf' would"
    ):
        Recipe(split="sessions")


def test_the_file_of_a_folder_that_was_read_is_named(write: Write) -> None:
    path = write("log.csv", equal_times(8, 0))
    assert prepare("shop", path.parent).meta["preparation"]["notes"][0] == "of the folder, log.csv was read"
    assert "was read" not in prepare("shop", path).meta["preparation"]["notes"][0]
