from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.cli import main
from agents.commands.data import DataInfo, DataList, DataPrepare, DataSynthesize
from agents.commands.data_tables import describe
from agents.commands.target import choose_target
from refit_env.data import Dataset, Interactions, list_datasets, load_dataset, save_dataset, synthesize
from refit_env.data.recipes import RECIPES

CSV = "visitor,article,stars\n" + "".join(f"{n % 5},{n},{n % 5 + 1}\n" for n in range(100))


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data home; the real sets are not read."""
    monkeypatch.setenv("REFIT_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path / "home"


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    path = tmp_path / "ratings.csv"
    path.write_text(CSV)
    return path


def test_list_names_every_set_and_where_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0 == DataList().run()
    out = capsys.readouterr().out
    assert all(name in out for name in list_datasets())
    assert "https://grouplens.org" in out and "home" in out


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", "synthetic"]) == 0 == DataInfo("synthetic").run()
    out = capsys.readouterr().out
    assert "800 x 400" in out and "MIT" in out and "yes" in out


def test_info_says_what_identifies_a_data_set() -> None:
    data = synthesize(num_users=30, num_items=40)
    assert describe(data)["ids of the source"] == "not kept: the numbers are the ids"
    named = describe(replace(data, item_ids=np.arange(40)))
    assert named["ids of the source"] == "items" and named["fingerprint"] == data.fingerprint
    assert "800 users, 400 items" in named["published tables measured on"]
    assert "this data set" in describe(load_dataset("synthetic"))["published tables measured on"]


def test_prepare_ones_own_csv(ratings: Path, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "prepare", "shop", "--source", str(ratings), "--columns", "user=visitor", "item=article"]
    assert main([*words, "rating=stars", "--min-rating", "1", "--out", str(own_home / "shop")]) == 0
    out = capsys.readouterr().out
    assert "rating >= 1" in out and "5 users, 100 items, 70 / 10 / 20" in out
    data = load_dataset(own_home / "shop")
    assert data.meta["source"] == ["ratings.csv"] and len(data.test) == 20


def test_a_name_that_means_two_data_sets_is_refused_and_raw_files_mean_none(
    ratings: Path,
    own_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    ratings = ratings.rename(tmp_path / "shop" / ratings.name)  # raw files, in a folder of the same name
    assert DataPrepare("shop", ratings, columns=("user=visitor", "item=article")).run() == 0
    assert choose_target(None, Path("shop")).data == str((own_home / "shop").resolve())
    assert load_dataset("shop").num_users == 5
    save_dataset(synthesize(num_users=30, num_items=40), tmp_path / "two" / "shop")
    monkeypatch.chdir(tmp_path / "two")
    capsys.readouterr()
    for words in (["data", "info", "shop"], ["pretrain", "--data", "shop", "--out", "run"]):
        assert main(words) == 2
        assert "'shop' is a data set in the data home" in capsys.readouterr().err
    assert load_dataset(tmp_path / "two" / "shop").num_users == 30


def test_prepare_states_what_each_step_removed(ratings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ratings.open("a") as file:
        file.write("0,,5\n")
    words = ["data", "prepare", "shop", "--source", str(ratings), "--columns", "user=visitor", "item=article"]
    assert main([*words, "rating=stars", "--drop-blank", "--min-rating", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    cells = {row[0]: row[1:] for row in rows if row}
    assert cells["read"] == ["101", "", ""] and cells["without blanks"] == ["100 (-1)", "5", "100"]
    assert cells["rating >= 3"] == ["60 (-40)", "3 (-2)", "60 (-40)"]


def test_prepare_goes_to_the_data_home_by_itself(ratings: Path, own_home: Path) -> None:
    command = DataPrepare("shop", ratings, columns=("user=visitor", "item=article"))
    assert command.run() == 0 and load_dataset(own_home / "shop").num_users == 5


def test_a_set_of_ones_own_in_the_data_home_goes_by_its_name(
    ratings: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert DataPrepare("shop", ratings, columns=("user=visitor", "item=article")).run() == 0
    assert "Use it by --data shop" in capsys.readouterr().out
    assert list_datasets()["shop"] == own_home / "shop"
    assert load_dataset("shop").fingerprint == load_dataset(own_home / "shop").fingerprint
    with pytest.raises(ValueError, match="Did you mean 'shop'"):
        load_dataset("shopp")
    assert main(["data", "info", "shop"]) == 0 and "5 x 100" in capsys.readouterr().out
    visits = Interactions.from_pairs([0, 0, 0, 1], [3, 3, 1, 3], num_users=2, num_items=5)
    none = Interactions.from_pairs([], [], num_users=2, num_items=5)
    assert describe(Dataset("cafes", "poi", visits, none, none, False))["repeats"].startswith("25% of")
    assert describe(load_dataset("shop"))["repeats"] == "none"
    assert main(["data", "list"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("shop"))
    assert row.split()[:5] == ["shop", "cf", "5", "100", "100"] and row.split()[-2:] == ["no", "yes"]
    assert choose_target(None, Path("shop")).dataset == str((own_home / "shop").resolve())
    with pytest.raises(ValueError, match="--data shopp: there is no such folder"):
        choose_target(None, Path("shopp"))
    (own_home / "shop" / "dataset.json").write_text("{")
    assert main(["data", "list"]) == 0 and "damaged" in capsys.readouterr().out


def test_mistakes_are_one_line(ratings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "prepare", "shop", "--source", str(ratings)]
    for more, message in (
        ([], "which column is the user?"),
        (["--columns", "visitor"], "should read ROLE=NAME"),
        (["--columns", "user=visitor", "user=article"], "--columns: user is given twice"),
        (["--format", "cvs"], "Did you mean 'csv'"),
        (["--columns", "user=visitor", "item=article", "--split", "time"], "needs timestamps"),
    ):
        assert main([*words, *more]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    assert main(["data", "prepare", "ml-100k", "--source", str(ratings), "--k-core", "5"]) == 2
    assert "--k-core would not change" in capsys.readouterr().err
    assert main(["data", "info", "ml1m"]) == 2
    assert "Did you mean 'ml-1m'" in capsys.readouterr().err


def test_options_of_tables(tmp_path: Path, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.csv"
    rows = [f"{n % 5}\t{n}\t{'' if n == 7 else n % 5 + 1}\t{1_500_000_000_000 + n}\tx\n" for n in range(100)]
    path.write_text("visitor\tarticle\tstars\ttime\tts\n" + "".join(rows))
    words = ["data", "prepare", "shop", "--source", str(path), "--separator", r"\t", "--overwrite"]
    words += ["--columns", "user=visitor", "item=article"]
    assert main(words) == 0
    assert "times converted from milliseconds" in capsys.readouterr().out
    assert load_dataset(own_home / "shop").train.ratings is None
    fails([*words, "rating=stars"], "rating is empty; --drop-blank drops such rows", capsys)
    assert main([*words, "rating=stars", "--drop-blank", "--time-unit", "ms"]) == 0
    assert "without blanks" in (out := capsys.readouterr().out) and "99" in out
    assert main([*words, "--ignore", "time", "ts"]) == 0
    assert load_dataset(own_home / "shop").train.timestamps is None


def test_a_unit_of_time_goes_with_a_recipe_too(
    tmp_path: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "inter_impression.csv"
    path.write_text("".join(f"{n % 5},{n // 5 % 9},{n},{1 + n * 3_600}\n" for n in range(200)))
    words = ["data", "prepare", "mine", "--source", str(path), "--recipe", "dreamrec-zhihu"]
    fails(words, "--time-unit UNIT states their unit", capsys)
    assert main([*words, "--time-unit", "s"]) == 0
    assert load_dataset(own_home / "mine").meta["preparation"]["recipe"]["time_unit"] == "s"


def test_resplit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "latest")
    assert main(["data", "resplit", "synthetic", "--out", out, "--valid-share", "0.2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    whole, written = load_dataset("synthetic"), load_dataset(out)
    assert facts["train"] + facts["valid"] == len(whole.train) == len(written.train) + len(written.valid)
    assert written.meta["derived_from"]["name"] == "synthetic" and written.time_ordered
    assert main(["data", "info", out, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["facts"]
    assert shown["made from"] == (
        f"synthetic (fingerprint {whole.fingerprint[:12]}): the latest 0.2 of each user's train items as "
        "validation"
    )
    assert shown["split"].startswith("the latest 0.2 of each user's train items")
    assert main(["data", "resplit", "synthetic", "--out", out]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["data", "resplit", "synthetic", "--out", out, "--overwrite", "--valid-share", "0"]) == 2
    assert "--valid-share must be > 0 and < 1, found 0" in capsys.readouterr().err
    assert main(["data", "resplit", "synthetic", "--out", out, "--overwrite", "--valid-share", "2"]) == 2
    assert "--valid-share must be > 0 and < 1, found 2" in capsys.readouterr().err
    words = ["data", "resplit", out, "--out", f"{out}/../latest", "--overwrite"]
    assert main(words) == 2  # the copy would replace what it is made of
    assert "is the data set that is copied; name another folder" in capsys.readouterr().err
    assert load_dataset(out).fingerprint == written.fingerprint
    other = str(tmp_path / "other")
    assert main(["data", "resplit", "synthetic", "--out", other, "--valid-share", "0.001"]) == 2
    assert "--valid-share 0.001 leaves no validation item" in capsys.readouterr().err
    assert not Path(other).exists()


def test_synthesize(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--seed", "3", "--users", "30", "--items", "40", "--clusters", "4"]
    assert main(["data", "synthesize", "--out", str(tmp_path / "a"), *words]) == 0
    assert DataSynthesize(tmp_path / "b", seed=3, users=30, items=40, clusters=4).run() == 0
    assert "30 users, 40 items" in capsys.readouterr().out
    one, other = load_dataset(tmp_path / "a"), load_dataset(tmp_path / "b")
    assert one.train.items.tolist() == other.train.items.tolist()


CHECKINS = "".join(
    f"{n % 4 + 1}\tvenue{n % 3}\tc\tCaf\xe9\t35.{n % 3}\t139.{n % 3}\t540\t"
    f"Tue Apr 03 {n // 60:02d}:{n % 60:02d}:09 +0000 2012\n"
    for n in range(200)
)


@pytest.fixture
def checkins(tmp_path: Path) -> Path:
    path = tmp_path / "raw" / "dataset_TSMC2014_TKY.txt"
    path.parent.mkdir()
    path.write_bytes(CHECKINS.encode("latin-1"))
    return path


@pytest.mark.parametrize("more", [[], ["--recipe", "diff-poi"]])
def test_prepare_by_a_recipe(
    more: list[str], checkins: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "prepare", "tky", "--source", str(checkins.parent), *more]) == 0
    assert "5-core" in (out := capsys.readouterr().out) and "4 users, 3 items" in out
    data = load_dataset("tky")
    assert data.meta["preparation"]["name"] == "diff-poi" and data.item_features is not None
    assert main(["data", "info", "tky"]) == 0
    out = capsys.readouterr().out
    assert "lat, lon" in out and "Diff-POI" in out and "quantiles 0.8 and 0.9" in out


def test_a_recipe_for_a_set_of_ones_own(checkins: Path, own_home: Path) -> None:
    assert DataPrepare("mine", checkins, recipe="diff-poi").run() == 0
    data = load_dataset(own_home / "mine")
    assert (data.name, data.task, data.num_items) == ("mine", "poi", 3)


def test_options_of_sessions_and_tasks(checkins: Path, own_home: Path) -> None:
    words = ["data", "prepare", "tky", "--source", str(checkins), "--format", "tsmc2014", "--as", "mine"]
    more = ["--session", "day", "--task", "sequential", "--split", "sessions", "--valid-share", "0.25"]
    assert main([*words, *more]) == 0
    data = load_dataset(own_home / "mine")
    assert data.task == "sequential" and [len(part) for part in (data.train, data.valid, data.test)] == [
        100,
        50,
        50,
    ]
    assert main([*words, "--overwrite", "--task", "poi", "--split", "quantile"]) == 0
    assert load_dataset(own_home / "mine").task == "poi" and load_dataset(own_home / "mine").name == "mine"


def fails(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with 2 and one line that holds the message."""
    capsys.readouterr()
    assert main(words) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_known_name_accepts_only_data_from_its_recipes(
    ratings: Path, checkins: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "prepare", "tky", "--source", str(checkins)]) == 0
    before = (own_home / "tky" / "dataset.json").read_bytes()
    own = ["--source", str(ratings), "--format", "csv", "--columns", "user=visitor", "item=article"]
    for words in (
        ["tky", *own],
        ["tky", *own, "--overwrite"],
        ["tky", *own, "--out", str(own_home / "other")],
        ["shop", *own, "--as", "tky"],
        ["tky", "--source", str(checkins), "--as", "nyc"],
    ):
        fails(["data", "prepare", *words], "--as NAME stores yours under a name of its own", capsys)
    fails(["data", "prepare", "tky", "--source", str(checkins)], "tky: a data set is there already", capsys)
    assert (own_home / "tky" / "dataset.json").read_bytes() == before
    assert sorted(path.name for path in own_home.iterdir()) == ["tky"]
    assert main(["data", "prepare", "tky", *own, "--as", "shop"]) == 0
    assert main(["data", "prepare", "tky", "--source", str(checkins), "--as", "tky-again"]) == 0
    assert load_dataset(own_home / "tky-again").name == "tky-again"


def test_a_data_set_is_replaced_only_with_overwrite(
    ratings: Path, own_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "prepare", "shop", "--source", str(ratings), "--columns", "user=visitor", "item=article"]
    assert main(words) == 0
    fails([*words, "--seed", "3"], "a data set is there already; --overwrite replaces it", capsys)
    first = load_dataset(own_home / "shop").train.items.tolist()
    assert main([*words, "--seed", "3", "--overwrite"]) == 0
    assert load_dataset(own_home / "shop").train.items.tolist() != first
    made = ["data", "synthesize", "--users", "30", "--items", "40", "--clusters", "4", "--out"]
    fails([*made, str(own_home / "shop")], "--overwrite replaces it", capsys)
    fails([*made, str(tmp_path)], "not part of a data set", capsys)  # the folder with ratings.csv
    assert ratings.is_file()


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "", ".x", "a/b", "raw", "synthetic", "x" * 101, "a\nb"])
def test_names_that_lead_elsewhere_are_refused(
    name: str, ratings: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--source", str(ratings), "--columns", "user=visitor", "item=article"]
    fails(["data", "prepare", name, *words], "cannot name a data set", capsys)
    fails(["data", "prepare", "shop", "--as", name, *words], "cannot name a data set", capsys)
    assert not own_home.exists()


def test_mistakes_about_recipes_are_one_line(checkins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "prepare", "tky", "--source", str(checkins)]
    for more, message in (
        (["--recipe", "dif-poi"], "unknown recipe 'dif-poi'. Did you mean 'diff-poi'?"),
        (["--recipe", "recdiff"], "recipe 'recdiff' is for ciao, epinions, yelp; tky has diff-poi"),
        (["--recipe", "diff-poi", "--format", "csv"], "leave out --format csv"),
        (
            ["--recipe", "diff-poi", "--seed", "3"],
            "recipe diff-poi of tky has its own steps, which --seed would",
        ),
    ):
        assert main([*words, *more]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1


def test_list_has_the_statistics_of_what_is_here(
    own_home: Path, checkins: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    DataPrepare("tky", checkins).run()
    info = own_home / "tky" / "dataset.json"
    info.write_text(info.read_text().replace('"social_edges": null', '"social_edges": 1234'))
    capsys.readouterr()
    assert DataList().run() == 0
    lines = capsys.readouterr().out.splitlines()
    head = next(line for line in lines if line.startswith("name"))
    assert head.split() == [
        *"name task users items interactions density train valid test".split(),
        "social",
        "edges",
        "timed",
        "here",
    ]
    tky = next(line for line in lines if line.startswith("tky")).split()
    data = load_dataset("tky")
    splits = [str(len(part)) for part in (data.train, data.valid, data.test)]
    assert tky == ["tky", "poi", "4", "3", "200", "1666.667%", *splits, "1,234", "yes", "yes"]
    ciao = next(line for line in lines if line.startswith("ciao")).split()
    assert ciao == ["ciao", "social", "1,925", "15,053", "33,175", "0.114%", "no", "no"]
    anime = next(line for line in lines if line.startswith("anime")).split()
    assert anime == ["anime", "cf", "73,515", "11,200", "7,813,737", "0.949%", "no", "no"]  # as published


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"num_users": "x"}', "[" * 100_000])
def test_list_goes_on_past_a_damaged_set(
    text: str, own_home: Path, checkins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DataPrepare("tky", checkins).run()
    (own_home / "tky" / "dataset.json").write_text(text)
    capsys.readouterr()
    assert DataList().run() == 0
    out = capsys.readouterr().out
    assert next(line for line in out.splitlines() if line.startswith("tky")).split()[-1] == "damaged"
    assert f"tky: {own_home / 'tky' / 'dataset.json'}: " in out and "zhihu" in out


@pytest.mark.parametrize("done", [None, {}, {"name": "x"}, {"name": "x", "paper": "y" * 10}])
def test_info_of_a_set_that_states_little_or_much(
    done: object, own_home: Path, ratings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DataPrepare("shop", ratings, columns=("user=visitor", "item=article")).run()
    file = own_home / "shop" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"preparation": done, "note": "n" * 10**6}))
    capsys.readouterr()
    assert DataInfo(str(own_home / "shop")).run() == 0
    assert len(capsys.readouterr().out) < 10_000


def test_list_of_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--recipes"]) == 0
    out = capsys.readouterr().out
    for name, recipe in RECIPES.items():
        assert any(line.startswith(name) and recipe.paper in line for line in out.splitlines())
        assert not recipe.note or f"{name}: {recipe.note}" in out


def test_info_of_a_set_that_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert DataInfo("ciao").run() == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "33,175" in out and "HKUDS/RecDiff" in out and "recipe tang" in out and "0.114%" in out
    assert DataInfo("anime").run() == 0
    out = capsys.readouterr().out
    assert "rating.csv" in out and "7,813,737" in out and "published tables measured on" in out
