from __future__ import annotations

from pathlib import Path

import pytest

from agents.cli import main
from agents.commands.data import DataInfo, DataList, DataPrepare, DataSynthesize
from refit_env.data import list_datasets, load_dataset

CSV = "visitor,article,stars\n" + "".join(f"{n % 5},{n},{n % 5 + 1}\n" for n in range(100))


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data home; the real sets are not looked at."""
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


def test_prepare_ones_own_csv(ratings: Path, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "prepare", "shop", "--source", str(ratings), "--columns", "user=visitor", "item=article"]
    assert main([*words, "rating=stars", "--min-rating", "1", "--out", str(own_home / "shop")]) == 0
    out = capsys.readouterr().out
    assert "rating >= 1" in out and "5 users, 100 items, 70 / 10 / 20" in out
    data = load_dataset(own_home / "shop")
    assert data.meta["source"] == ["ratings.csv"] and len(data.test) == 20


def test_prepare_goes_to_the_data_home_by_itself(ratings: Path, own_home: Path) -> None:
    command = DataPrepare("shop", ratings, columns=("user=visitor", "item=article"))
    assert command.run() == 0 and load_dataset(own_home / "shop").num_users == 5


def test_mistakes_are_one_line(ratings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "prepare", "shop", "--source", str(ratings)]
    for more, message in (
        ([], "which column is the user?"),
        (["--columns", "visitor"], "should read ROLE=NAME"),
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


def test_synthesize(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--seed", "3", "--users", "30", "--items", "40", "--clusters", "4"]
    assert main(["data", "synthesize", "--out", str(tmp_path / "a"), *words]) == 0
    assert DataSynthesize(tmp_path / "b", seed=3, users=30, items=40, clusters=4).run() == 0
    assert "30 users, 40 items" in capsys.readouterr().out
    one, other = load_dataset(tmp_path / "a"), load_dataset(tmp_path / "b")
    assert one.train.items.tolist() == other.train.items.tolist()
