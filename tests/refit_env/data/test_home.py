from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from refit_env.data import data_homes, list_datasets, load_dataset, save_dataset, synthesize
from refit_env.data.catalog import CATALOG, Source
from refit_env.data.download import how_to_get
from refit_env.data.home import writable_home
from refit_env.data.recipe import Recipe
from refit_env.data.recipes import RECIPES, NamedRecipe
from refit_env.errors import DataError

Write = Callable[[str, str | bytes], Path]
CSV = "user,item\n" + "".join(f"{n % 5},{n}\n" for n in range(100))


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Create two empty data homes: the chosen one, and the cache."""
    monkeypatch.setenv("REFIT_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path / "cache"))
    return tmp_path / "home", tmp_path / "cache"


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Source:
    """Add a known data set that is prepared from a CSV file."""
    entry = Source("shop", "cf", "https://shop.example", "CC0", False)
    recipe = NamedRecipe("shop", "nobody's", {"shop": ("ratings.csv",)}, Recipe(format="csv"))
    monkeypatch.setitem(CATALOG, "shop", entry)
    monkeypatch.setitem(RECIPES, "shop", recipe)
    return entry


def test_the_chosen_home_comes_before_the_cache(
    homes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert data_homes() == list(homes)
    monkeypatch.delenv("REFIT_DATA_HOME")
    assert data_homes() == [homes[1]]


def test_synthetic_needs_no_file(homes: tuple[Path, Path]) -> None:
    assert load_dataset("synthetic") is load_dataset("synthetic")
    assert not homes[0].exists() and not homes[1].exists()


def test_names_are_found_in_either_home(homes: tuple[Path, Path]) -> None:
    small = dataclasses.replace(synthesize(num_users=20, num_items=40), name="ml-1m")
    assert list_datasets()["ml-1m"] is None
    save_dataset(small, homes[1] / "ml-1m")
    assert list_datasets()["ml-1m"] == homes[1] / "ml-1m"
    assert load_dataset("ml-1m").num_users == 20
    save_dataset(synthesize(num_users=25, num_items=40), homes[0] / "ml-1m")
    assert load_dataset("ml-1m").num_users == 25


def test_raw_files_are_prepared_in_their_home_and_reported(
    homes: tuple[Path, Path], shop: Source, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write("home/raw/shop/ratings.csv", CSV)
    data = load_dataset("shop")
    said = f"refit-env: preparing shop from {homes[0] / 'raw' / 'shop'} into {homes[0] / 'shop'}, once\n"
    assert capsys.readouterr().err == said
    assert sorted(os.listdir(homes[0])) == ["raw", "shop"]  # no lock, no leftover
    assert load_dataset("shop") is data and capsys.readouterr().err == ""
    assert (data.num_users, data.num_items) == (5, 100) and data.meta["licence"] == "CC0"
    assert list_datasets()["shop"] == homes[0] / "shop"


def test_a_read_only_home_is_not_changed(homes: tuple[Path, Path], shop: Source, write: Write) -> None:
    write("home/raw/shop/ratings.csv", CSV)
    for path in (homes[0] / "raw" / "shop", homes[0] / "raw", homes[0]):
        path.chmod(0o555)
    try:
        assert writable_home() == homes[1]
        load_dataset("shop")
    finally:
        for path in (homes[0], homes[0] / "raw", homes[0] / "raw" / "shop"):
            path.chmod(0o755)
    assert list_datasets()["shop"] == homes[1] / "shop" and os.listdir(homes[0]) == ["raw"]


def test_no_writable_home(homes: tuple[Path, Path], shop: Source, write: Write) -> None:
    write("home/raw/shop/ratings.csv", CSV)
    write("cache", "a file in the way")
    homes[0].chmod(0o555)
    try:
        with pytest.raises(DataError, match=r"no data home can be written to: .*REFIT_DATA_HOME"):
            load_dataset("shop")
    finally:
        homes[0].chmod(0o755)


def test_the_error_for_an_absent_set_says_what_to_do(homes: tuple[Path, Path]) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset("yelp2018")
    for word in (
        "train.txt, test.txt",
        CATALOG["yelp2018"].page,
        str(homes[0] / "raw" / "yelp2018"),
        "refit data prepare",
    ):
        assert word in str(caught.value)
    with pytest.raises(
        DataError, match=r"get inter_impression|get train_data.df .*or inter_impression"
    ) as caught:
        load_dataset("zhihu")
    assert "ZhihuRec-Dataset" in str(caught.value) and "DreamRec" in str(caught.value)


@pytest.mark.parametrize("name", [name for name in CATALOG if name != "synthetic"])
def test_the_error_for_an_absent_set_names_each_way_once(name: str, tmp_path: Path) -> None:
    ways = how_to_get(CATALOG[name], [tmp_path]).partition(": get ")[2].partition(" (")[0].split(", or ")
    assert len(ways) == len(set(ways))


def test_wrong_names_and_folders(homes: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Did you mean 'ml-1m'"):
        load_dataset("ml1m")
    with pytest.raises(DataError, match="no canonical data set there"):
        load_dataset(tmp_path)
    with pytest.raises(DataError, match="no canonical data set there"):
        load_dataset(str(tmp_path / "nowhere"))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    """Start a local web server for the folder ``served``."""
    (tmp_path / "served").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def offered(shop: Source, host: str, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Add a known data set that has a download."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    checksum = hashlib.sha256(CSV.encode()).hexdigest()
    entry = dataclasses.replace(shop, url=f"{host}/ratings.csv", sha256=checksum)
    monkeypatch.setitem(CATALOG, "shop", entry)
    return entry


def test_downloads_are_checked_and_prepared(homes: tuple[Path, Path], offered: Source, write: Write) -> None:
    write("served/ratings.csv", CSV)
    assert load_dataset("shop").num_items == 100
    assert (homes[0] / "raw" / "shop" / "ratings.csv").read_text() == CSV


@pytest.mark.parametrize("served", [None, CSV + "9,9\n"])
def test_a_failed_or_changed_download_says_how_to_get_it(
    served: str | None, homes: tuple[Path, Path], offered: Source, write: Write
) -> None:
    if served is not None:
        write("served/ratings.csv", served)
    with pytest.raises(DataError, match="could not be fetched") as caught:
        load_dataset("shop")
    for word in ("ratings.csv", offered.page, str(homes[0] / "raw" / "shop")):
        assert word in str(caught.value)
    assert not (homes[0] / "raw" / "shop" / "ratings.csv").exists()  # no partial file is left
    assert not (homes[0] / "shop").exists()


def test_a_rewritten_folder_is_read_again(tmp_path: Path) -> None:
    """Also if dataset.json keeps the old modification time, as in a copy that preserves times."""
    folder, info = tmp_path / "mine", tmp_path / "mine" / "dataset.json"
    save_dataset(synthesize(seed=0, num_users=30, num_items=24), folder)
    first, written = load_dataset(folder), info.stat()
    assert load_dataset(folder) is first
    shutil.rmtree(folder)
    save_dataset(synthesize(seed=1, num_users=30, num_items=24), folder)
    os.utime(info, ns=(written.st_atime_ns, written.st_mtime_ns))
    assert load_dataset(folder).fingerprint != first.fingerprint
