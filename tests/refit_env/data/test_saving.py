from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from refit_env.data import Dataset, load_canonical, load_dataset, save_dataset, saving, synthesize
from refit_env.data.prepare import prepare
from refit_env.data.recipe import Recipe
from refit_env.data.saving import FILES, check_name
from refit_env.errors import DataError

Write = Callable[[str, str | bytes], Path]
OLD, NEW = synthesize(num_users=30, num_items=40), synthesize(num_users=40, num_items=50)


def whole(folder: Path) -> int:
    """Load the data set, which checks the checksums, and return its number of users."""
    return load_canonical(folder).num_users


def test_a_set_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    folder = save_dataset(OLD, tmp_path / "shop")
    with pytest.raises(DataError, match=r"shop: a data set is there already; overwrite=True replaces it"):
        save_dataset(NEW, folder)
    assert whole(folder) == 30
    assert whole(save_dataset(NEW, folder, overwrite=True)) == 40


def test_other_files_are_never_replaced(tmp_path: Path) -> None:
    folder = save_dataset(OLD, tmp_path / "shop")
    (folder / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for path, message in ((folder, r"holds notes\.txt, not part"), (tmp_path / "file", "is a file")):
        with pytest.raises(DataError, match=message):
            save_dataset(NEW, path, overwrite=True)
    assert whole(folder) == 30 and (folder / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert whole(save_dataset(NEW, tmp_path / "empty")) == 40


def test_temporary_files_of_killed_processes_may_be_replaced(tmp_path: Path) -> None:
    folder = save_dataset(OLD, tmp_path / "shop")
    (folder / f".{FILES[0]}.x1y2.parquet").write_text("half")
    save_dataset(NEW, folder, overwrite=True)
    assert {path.name for path in folder.iterdir()} <= set(FILES)


@pytest.mark.parametrize("step", range(3))
def test_an_interrupt_while_writing_leaves_the_old_set(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_dataset(OLD, tmp_path / "shop")
    done: list[Any] = []

    def stops(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            done.append(function)
            if len(done) > step:
                raise KeyboardInterrupt
            return function(*args, **options)

        return run

    social = Dataset("s", "social", NEW.train, NEW.valid, NEW.test, time_ordered=True, user_ids=USERS)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", stops(pd.DataFrame.to_parquet))
    monkeypatch.setattr(saving, "write_json", stops(saving.write_json))
    with pytest.raises(KeyboardInterrupt):
        save_dataset(social, folder, overwrite=True)
    assert len(done) == step + 1 and whole(folder) == 30
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


KILLED = """
import os, signal, sys
import pandas as pd
from refit_env.data import save_dataset, synthesize
write, done = pd.DataFrame.to_parquet, []

def dies(table, *args, **options):
    if len(done) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(table)
    return write(table, *args, **options)

pd.DataFrame.to_parquet = dies
data = synthesize(num_users=40, num_items=50)
object.__setattr__(data, "item_ids", pd.RangeIndex(50).to_numpy())
save_dataset(data, sys.argv[1], overwrite=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="a signal of POSIX")
def test_a_kill_between_two_tables_leaves_the_old_set_and_the_next_writer_cleans_up(tmp_path: Path) -> None:
    folder = save_dataset(OLD, tmp_path / "shop")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), "1"], check=False)
    assert killed.returncode == -signal.SIGKILL and whole(folder) == 30
    [half] = [path for path in tmp_path.iterdir() if path != folder]
    assert [path.name for path in half.iterdir()] == ["interactions.parquet"]
    save_dataset(NEW, folder, overwrite=True)
    assert whole(folder) == 40 and [path.name for path in tmp_path.iterdir()] == ["shop"]


USERS = pd.RangeIndex(NEW.num_users).astype(str).to_numpy(dtype=object)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "x/y", "x\\y", ".hidden", "a\nb", "raw", "-x"])
def test_names_that_are_not_folder_names_are_refused(name: str, write: Write) -> None:
    with pytest.raises(DataError, match="cannot name a data set"):
        check_name(name)
    with pytest.raises(DataError, match="cannot name a data set"):
        prepare(name, write("ratings.csv", "user,item\n"))


@pytest.mark.parametrize("name", ["ML-1M", "Ml-1m", "YELP2018", "Raw", "SYNTHETIC"])
def test_names_that_differ_from_known_ones_only_in_capitals_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=f"'{name}' cannot name a data set"):
        check_name(name)


@pytest.mark.parametrize(("one", "other"), [("shop", "Shop"), ("Caf\u00e9", "cafe\u0301")])
def test_two_sets_whose_names_many_file_systems_confuse_are_refused(
    one: str, other: str, tmp_path: Path
) -> None:
    save_dataset(OLD, tmp_path / one)
    (tmp_path / "SHOP").mkdir()  # no data set: no reason to refuse
    with pytest.raises(DataError, match="is beside it, and many file systems take the two names for one"):
        save_dataset(NEW, tmp_path / other, overwrite=True)
    assert whole(tmp_path / one) == 30 and not (tmp_path / other).exists()


def test_a_set_that_could_not_be_loaded_is_not_written(tmp_path: Path) -> None:
    none = NEW.test.select(np.zeros(len(NEW.test), dtype=np.bool_))
    with pytest.raises(DataError, match="shop: the test split is empty; every split needs rows"):
        save_dataset(replace(NEW, test=none), tmp_path / "shop")
    assert not list(tmp_path.iterdir())


def test_known_names_are_for_their_recipes_only(write: Write, tmp_path: Path) -> None:
    text = "user,item\n" + "".join(f"{n % 5},{n}\n" for n in range(100))
    path = write("ratings.csv", text)
    with pytest.raises(DataError, match=r"'ml-1m' is a known data set, which only its recipes create"):
        prepare("ml-1m", path, Recipe(), tmp_path / "out")
    with pytest.raises(DataError, match=r"'nyc' is a known data set"):
        prepare("tky", path, out=tmp_path / "out", stored="nyc")
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    save_dataset(OLD, tmp_path / "shop")
    with pytest.raises(DataError, match="a data set is there already"):
        prepare("shop", tmp_path / "nowhere.csv", Recipe(), tmp_path / "shop")


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    save_dataset(OLD, tmp_path / "there")
    (tmp_path / "here").symlink_to(tmp_path / "there")
    save_dataset(NEW, tmp_path / "here", overwrite=True)
    assert (tmp_path / "here").is_symlink() and load_dataset(tmp_path / "there").num_users == 40
