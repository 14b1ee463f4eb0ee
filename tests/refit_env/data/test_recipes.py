"""Tests of each paper's preprocessing on generated files in the published formats."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.io

from refit_env.data import Dataset, load_dataset
from refit_env.data.catalog import CATALOG
from refit_env.data.home import find_raw
from refit_env.data.interactions import SPLITS
from refit_env.data.prepare import prepare
from refit_env.data.readers.formats import FORMATS
from refit_env.data.recipes import RECIPES, choose_recipe, recipes_for
from refit_env.errors import DataError

Write = Callable[[str, str | bytes], Path]
DOCS = Path(__file__).resolve().parents[3] / "docs" / "howto" / "own-data.md"


def events(data: Dataset) -> pd.DataFrame:
    """Return every row with its split and the source's ids."""
    parts = []
    assert data.user_ids is not None and data.item_ids is not None
    for number, name in enumerate(SPLITS):
        part = data.split(name)
        parts.append(
            pd.DataFrame(
                {
                    "user": data.user_ids[part.users],
                    "item": data.item_ids[part.items],
                    "time": part.timestamps if part.timestamps is not None else 0.0,
                    "split": number,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def rows_of(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    return sorted(map(tuple, frame[["user", "item", "time", "split"]].to_numpy().tolist()))


def made(name: str, folder: Path, recipe: str | None = None) -> Dataset:
    """Prepare and load again; check that the recipe is stored and the data are unchanged."""
    out = folder.parent / "canonical"
    named = None if recipe is None else RECIPES[recipe]
    data = prepare(name, folder, named, out, overwrite=True)
    again = load_dataset(out)
    info = json.loads((out / "dataset.json").read_text())
    done = info["preparation"]
    assert done["name"] == (recipe or done["name"]) and done["paper"] == RECIPES[done["name"]].paper
    assert done["recipe"]["split"] == RECIPES[done["name"]].recipe.split
    assert info["licence"] == CATALOG[name].licence and info["task"] == CATALOG[name].task
    for split in SPLITS:
        assert again.split(split).items.tolist() == data.split(split).items.tolist()
    for one, other in ((data.social, again.social),):
        assert (one is None) == (other is None) and (one is None or np.array_equal(one, other))
    assert (data.item_features is None) == (again.item_features is None)
    for column, values in (data.item_features or {}).items():
        assert again.item_features is not None and np.array_equal(again.item_features[column], values)
    return again


def test_every_data_set_has_a_recipe_of_its_task_and_every_recipe_a_data_set() -> None:
    for name, entry in CATALOG.items():
        known = recipes_for(name)
        assert known and all(recipe.recipe.task == entry.task for recipe in known)
        if any(name in recipe.exact for recipe in known):
            assert name in known[0].exact and entry.counts is not None
    for recipe in RECIPES.values():
        assert recipe.files.keys() <= CATALOG.keys() and set(recipe.exact) <= recipe.files.keys()
        assert recipe.recipe.format is None or recipe.recipe.format in FORMATS
    assert {"anime-cf", "dreamrec-yoochoose", "recdiff", "diff-poi"} <= RECIPES.keys()


def test_the_recipe_is_chosen_by_the_files_that_are_there(write: Write, tmp_path: Path) -> None:
    path = write("raw/yoochoose-clicks.dat", "x")
    for source in (path, path.parent):
        chosen = choose_recipe("yoochoose", source)
        assert chosen is not None and chosen.name == "yoochoose-clicks"
    write("raw/yoochoose-buys.dat", "x")
    chosen = choose_recipe("yoochoose", path.parent)
    assert chosen is not None and chosen.name == "dreamrec-yoochoose"
    chosen = choose_recipe("yoochoose", path, "dreamrec")
    assert chosen is RECIPES["dreamrec"]
    assert choose_recipe("my-own", path) is None
    assert choose_recipe("my-own", path, "yoochoose-clicks") is RECIPES["yoochoose-clicks"]
    with pytest.raises(ValueError, match=r"unknown recipe 'recdif'\. Did you mean 'recdiff'\?"):
        choose_recipe("ciao", path, "recdif")
    with pytest.raises(
        DataError, match=r"recipe 'diff-poi' is for foursquare, tky, nyc; ciao has recdiff, tang"
    ):
        choose_recipe("ciao", path, "diff-poi")
    with pytest.raises(
        DataError, match=r"no official files of epinions there; its recipes read tang: rating\.mat"
    ):
        choose_recipe("epinions", path.parent)
    with pytest.raises(
        DataError, match=r"no official files of ml-1m there; its recipes read diffrec: train_list"
    ):
        choose_recipe("ml-1m", path)  # it needs three
    with pytest.raises(DataError, match="there is no such file or folder"):
        choose_recipe("epinions", tmp_path / "nowhere")


def test_the_recipes_file_is_read_from_a_folder_with_others(write: Write) -> None:
    clocks = [f"18:{n // 60:02d}:{n % 60:02d}" for n in range(200)]
    lines = "".join(
        f"{n % 5}\t%s{n % 3}\tc\tCafe\t35.1\t139.1\t540\tTue Apr 03 {clock} +0000 2012\n"
        for n, clock in enumerate(clocks)
    )
    for city in ("NYC", "TKY"):
        path = write(f"raw/dataset_TSMC2014_{city}.txt", lines.replace("%s", city))
    for name, city in (("tky", "TKY"), ("nyc", "NYC")):
        assert made(name, path.parent).item_ids.tolist() == [f"{city}{n}" for n in range(3)]  # type: ignore[union-attr]
    mine = prepare("mine", path.parent, RECIPES["diff-poi"])
    assert mine.item_ids is not None and len(mine.item_ids) == 3
    (path.parent / "dataset_TSMC2014_TKY.txt").unlink()
    with pytest.raises(DataError, match=r"recipe diff-poi needs dataset_TSMC2014_TKY\.txt, not found there"):
        made("tky", path.parent, "diff-poi")


def test_raw_files_in_a_data_home_are_found(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFIT_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path / "cache"))
    assert find_raw(CATALOG["ciao"]) is None
    write("raw/ciao/rating.mat", "x")
    assert find_raw(CATALOG["ciao"]) is None
    write("raw/ciao/trustnetwork.mat", "x")
    assert find_raw(CATALOG["ciao"]) == tmp_path / "raw" / "ciao"


def test_anime_cf(write: Write) -> None:
    rng = np.random.default_rng(0)
    pairs = {(int(u), int(i)) for u, i in rng.integers(0, 30, (600, 2))}
    rating = {pair: int(rng.choice([-1, 5, 8, 9, 10])) for pair in pairs}
    text = "user_id,anime_id,rating\n" + "".join(f"{u},{i},{r}\n" for (u, i), r in rating.items())
    path = write("raw/rating.csv", text)
    found = events(made("anime", path.parent))
    liked = {pair for pair, r in rating.items() if r >= 8}
    while True:
        users, items = (pd.Series([p[n] for p in liked]).value_counts() for n in (0, 1))
        kept = {(u, i) for u, i in liked if users[u] >= 5 and items[i] >= 5}
        if kept == liked:
            break
        liked = kept
    assert set(zip(found.user, found.item, strict=True)) == liked and len(found) == len(liked)
    everything = made("anime", path.parent, "cf-diff")
    assert sum(len(everything.split(s)) for s in SPLITS) == len(rating)


def visits(rng: np.random.Generator, users: int, items: int, rows: int) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "user": rng.integers(0, users, rows) + 1,
            "item": rng.integers(0, items, rows),
            "time": rng.integers(0, 300 * 1440, rows) * 60,
        }
    )
    return frame


def one_pass(frame: pd.DataFrame) -> pd.DataFrame:
    """Filter users and items with at least five rows, in one pass."""
    users, items = frame.user.value_counts(), frame.item.value_counts()
    return frame[(frame.user.map(users) >= 5) & (frame.item.map(items) >= 5)]


def as_diff_poi_does(frame: pd.DataFrame) -> pd.DataFrame:
    """Do the steps of the paper's script: one pass of 5-core, then quantiles of each user's times."""
    frame = one_pass(frame).copy()
    assert len(one_pass(frame)) < len(frame)  # another pass would drop more
    frame["split"] = -1
    for user, line in frame.groupby("user"):
        valid, test = np.quantile(line.time, [0.8, 0.9])
        split = np.where(line.time < valid, 0, np.where(line.time < test, 1, 2))
        frame.loc[frame.user == user, "split"] = split
    return frame


def test_diff_poi_from_tsmc2014(write: Write) -> None:
    frame = visits(np.random.default_rng(1), 100, 60, 600)
    frame["time"] += 1_333_476_000
    where = np.random.default_rng(2).uniform(35, 36, (60, 2)).round(6)
    lines = []
    for row in frame.itertuples():
        stamp = pd.Timestamp(int(row.time), unit="s").strftime("%a %b %d %H:%M:%S +0000 %Y")
        lat, lon = where[row.item]
        lines.append(f"{row.user}\tvenue{row.item:02d}\tc\tCafé\t{lat}\t{lon}\t540\t{stamp}\n")
    path = write("raw/dataset_TSMC2014_TKY.txt", "".join(lines).encode("latin-1"))
    data = made("tky", path)
    want = as_diff_poi_does(frame.assign(item=[f"venue{i:02d}" for i in frame.item]))
    assert 0 < len(want) < len(frame)
    assert rows_of(events(data)) == rows_of(want)
    assert data.item_features is not None and data.item_ids is not None and data.time_ordered
    for n, name in enumerate(("lat", "lon")):
        assert data.item_features[name].tolist() == [where[int(v[5:])][n] for v in data.item_ids]


def test_diff_poi_from_lbsn_files(write: Write) -> None:
    frame = visits(np.random.default_rng(3), 60, 40, 400)
    texts = ["", "", ""]
    for n, row in enumerate(frame.itertuples()):
        day, minute = divmod(int(row.time) // 60, 1440)
        texts[n % 3] += f"USER_{row.user}\tLOC_{row.item}\t1.{row.item},103.{row.item}\t"
        texts[n % 3] += f"{minute // 60:02d}:{minute % 60:02d}\t{day}\n"
    for name, text in zip(("train", "tune", "test"), texts, strict=True):
        path = write(f"raw/{name}.txt", text)
    data = made("foursquare", path.parent)
    assert rows_of(events(data)) == rows_of(as_diff_poi_does(frame))
    assert data.item_features is not None and data.item_ids is not None
    assert data.item_features["lat"].tolist() == [float(f"1.{i}") for i in data.item_ids]


def as_dreamrec_does(frame: pd.DataFrame) -> pd.DataFrame:
    """Filter items with 5 rows and sessions with 3; split sessions by their first time, 8:1:1."""
    while True:
        users, items = frame.user.value_counts(), frame.item.value_counts()
        kept = frame[(frame.user.map(users) >= 3) & (frame.item.map(items) >= 5)]
        if len(kept) == len(frame):
            break
        frame = kept
    first = frame.groupby("user").time.min().sort_values(kind="stable")
    test, valid = round(0.1 * len(first)), round(0.1 * len(first))
    split = pd.Series(0, index=first.index)
    split.iloc[len(first) - test - valid :] = 1
    split.iloc[len(first) - test :] = 2
    return frame.assign(split=frame.user.map(split))


def session_log(seed: int, rows: int = 1500) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"user": rng.integers(1, 300, rows), "item": rng.zipf(1.4, rows) % 60 + 1000})
    times = rng.permutation(rows) * 1000.0 + frame.user * 86400.0  # no two are equal
    return frame.assign(time=times + 1_396_000_000)


@pytest.mark.parametrize("which", ["clicks", "buys"])
def test_dreamrecs_filter_on_yoochoose(which: str, write: Write) -> None:
    frame = session_log(4)
    end = {"clicks": "S", "buys": "100,1"}[which]
    moments = pd.to_datetime(frame.time, unit="s").dt.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    lines = [f"{u},{t},{i},{end}\n" for u, t, i in zip(frame.user, moments, frame.item, strict=True)]
    data = made("yoochoose", write(f"raw/yoochoose-{which}.dat", "".join(lines)))
    if which == "buys":  # no session repeats an item
        frame = frame.sort_values("time").drop_duplicates(["user", "item"])
    want = as_dreamrec_does(frame)
    assert rows_of(events(data)) == rows_of(want)
    for number, name in enumerate(SPLITS):
        owners = set(events(data).query(f"split == {number}").user)
        assert len(owners) == (data.split(name).counts > 0).sum()
    step = "users >= 3, items >= 5"
    assert data.meta["preparation"]["rows"][step] == len(want)


def on_days(frame: pd.DataFrame) -> pd.DataFrame:
    """Apply DreamRec's filter to days (Beijing time) of users as sessions, named by user and date."""
    frame = frame.sort_values("time", kind="stable")
    day = pd.to_datetime(frame.time + 8 * 3600, unit="s").dt.strftime("%Y-%m-%d")
    codes, names = pd.factorize(frame.user.astype(str) + " " + day)  # numbered by the time of the first row
    made = as_dreamrec_does(frame.assign(user=codes))
    return made.assign(user=np.asarray(names)[made.user])


def test_dreamrecs_sessions_of_kuairec(write: Write) -> None:
    rng = np.random.default_rng(5)
    frame = session_log(5, 3000).assign(user=lambda f: f.user % 40)
    # Eighths: every version of pandas reads them exactly.
    frame["time"] = 1_593_878_400 + rng.integers(0, 10 * 86400 * 8, len(frame)) / 8
    frame["ratio"] = rng.uniform(0, 4, len(frame)).round(3)
    lines = ["user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"]
    for row in frame.itertuples():
        lines.append(f"{row.user},{row.item},1,2,2020-07-05 00:00:00.1,20200705,{row.time!r},{row.ratio}\n")
    data = made("kuairec", write("raw/big_matrix.csv", "".join(lines)))
    want = on_days(frame[frame.ratio >= 2])
    assert rows_of(events(data)) == rows_of(want) and data.time_ordered


def test_dreamrecs_clicks_of_zhihu(write: Write) -> None:
    frame = session_log(6, 4000).assign(user=lambda f: f.user % 60)
    frame["time"] = 1_525_200_000 + np.random.default_rng(6).permutation(10 * 86400)[:4000]
    clicked = np.random.default_rng(7).random(len(frame)) < 0.6
    lines = [
        f"{u},{i},{t - 3},{t if c else 0}\n"
        for u, i, t, c in zip(frame.user, frame.item, frame.time, clicked, strict=True)
    ]
    data = made("zhihu", write("raw/inter_impression.csv", "".join(lines)))
    assert rows_of(events(data)) == rows_of(on_days(frame[clicked]))
    assert data.meta["preparation"]["rows"]["without a click"] == clicked.sum()
    assert "ZhihuRec" in data.meta["source"][0]


def test_trust_among_the_users_that_are_left(write: Write, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    rating = np.unique(rng.integers(1, 40, (500, 2)), axis=0)
    rating = np.column_stack(
        [rating, np.ones(len(rating)), rng.integers(1, 6, len(rating)), np.ones(len(rating))]
    )
    trust = rng.integers(1, 60, (400, 2))
    (tmp_path / "raw").mkdir()
    scipy.io.savemat(str(tmp_path / "raw" / "rating.mat"), {"rating": rating.astype(np.uint8)})
    scipy.io.savemat(str(tmp_path / "raw" / "trustnetwork.mat"), {"trustnetwork": trust.astype(np.uint8)})
    data = made("epinions", tmp_path / "raw")
    liked = rating[rating[:, 3] >= 4]
    while True:
        users, items = (np.bincount(liked[:, n].astype(int), minlength=99) for n in (0, 1))
        enough = (users[liked[:, 0].astype(int)] >= 3) & (items[liked[:, 1].astype(int)] >= 3)
        if enough.all():
            break
        liked = liked[enough]
    found = events(data)
    assert set(zip(found.user, found.item, strict=True)) == {(int(r[0]), int(r[1])) for r in liked}
    assert data.social is not None and data.user_ids is not None and data.social.dtype == np.int32
    left = set(liked[:, 0].astype(int))
    want = {(int(a), int(b)) for a, b in trust if a != b and {int(a), int(b)} <= left}
    assert {tuple(edge) for edge in data.user_ids[data.social].tolist()} == want
    assert len(data.social) == len(want) == data.meta["social_edges"]


def test_yelp_friends(write: Write) -> None:
    rng = np.random.default_rng(9)
    lines = []
    for n, (u, i) in enumerate(rng.integers(0, 20, (700, 2)).tolist()):
        fields = {"user_id": f"u{u}", "business_id": f"b{i}", "stars": float(rng.integers(1, 6))}
        lines.append(json.dumps(fields | {"date": f"2016-03-09 13:{n // 60:02d}:{n % 60:02d}"}) + "\n")
    write("raw/yelp_academic_dataset_review.json", "".join(lines))
    people = [{"user_id": f"u{u}", "friends": f"u{(u + 1) % 20}, u{u}, nobody"} for u in range(20)]
    path = write("raw/yelp_academic_dataset_user.json", "".join(json.dumps(p) + "\n" for p in people))
    data = made("yelp", path.parent)
    assert data.social is not None and data.user_ids is not None and data.num_users == 20
    assert {tuple(e) for e in data.user_ids[data.social].tolist()} == {
        (f"u{u}", f"u{(u + 1) % 20}") for u in range(20)
    }
    assert not events(data).duplicated(["user", "item"]).any()


def test_a_recipe_for_ones_own_data(write: Write) -> None:
    frame = session_log(10)
    moments = pd.to_datetime(frame.time, unit="s").dt.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    lines = [f"{u},{t},{i},0\n" for u, t, i in zip(frame.user, moments, frame.item, strict=True)]
    data = prepare("mine", write("log.dat", "".join(lines)), RECIPES["yoochoose-clicks"])
    assert data.name == "mine" and rows_of(events(data)) == rows_of(as_dreamrec_does(frame))
    assert data.meta["preparation"]["name"] == "yoochoose-clicks"


def test_an_exact_recipe_refuses_other_counts(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("raw/train.txt", "0 " + " ".join(map(str, range(30))) + "\n1 5 6 7 8 9 10 11\n")
    path = write("raw/test.txt", "0 31\n1 30\n")
    with pytest.raises(DataError, match=r"gowalla has 29,858 users.*these files give 2 users, 32 items"):
        prepare("gowalla", path.parent, out=path.parent.parent / "out")
    monkeypatch.setitem(CATALOG, "gowalla", dataclasses.replace(CATALOG["gowalla"], counts=(2, 32, 39)))
    data = prepare("gowalla", path.parent, out=path.parent.parent / "out")
    assert data.meta["preparation"]["name"] == "lightgcn"


@pytest.mark.parametrize("name", ["gowalla", "yelp2018"])
def test_validation_of_a_published_split_is_the_latest_part_where_rows_have_an_order(
    name: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An author of the split says that the rows are in order of time; Yelp2018's here are sorted by item."""
    monkeypatch.setitem(CATALOG, name, dataclasses.replace(CATALOG[name], counts=None))
    items = np.random.default_rng(0).permutation(40)
    write("raw/train.txt", "0 " + " ".join(map(str, items[:30])) + "\n")
    path = write("raw/test.txt", "0 " + " ".join(map(str, items[30:])) + "\n")
    recipe = RECIPES["lightgcn"]
    data = prepare(name, path.parent, recipe)
    known, held = data.train.of(0).tolist(), data.valid.of(0).tolist()
    assert data.time_ordered == (name == "gowalla") and not data.mixed_validation
    assert (known + held == items[:30].tolist()) == (name == "gowalla")
    write("raw/valid.txt", "0 40\n")
    data = prepare(name, path.parent, recipe)
    assert data.valid.of(0).tolist() == [40] and data.mixed_validation == (name == "gowalla")


def test_the_documentation_names_every_recipe_and_format() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for recipe in RECIPES.values():
        line = next(line for line in text.splitlines() if line.startswith(f"| `{recipe.name}` |"))
        for dataset, files in recipe.files.items():
            assert dataset in line
            for file in files:
                usual = file.split("|")[0]
                assert usual in line or usual.startswith("dataset_TSMC2014_")
    assert all(f"`{name}`" in text for name in FORMATS)
