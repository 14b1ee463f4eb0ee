"""A table of friends: whose edges are kept, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from refit_env.data.filters import RawRows
from refit_env.data.prepare import prepare
from refit_env.data.readers.social_pairs import read_social
from refit_env.data.recipe import Recipe
from refit_env.errors import DataError

TEXT = RawRows(np.array(["007", "7", "b", "7"], object), np.arange(4))
NUMBERS = RawRows(np.array([10, 20, 30, 10]), np.arange(4))


def write(folder: Path, text: str) -> Path:
    path = folder / "friends.csv"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("rows", "text", "edges"),
    [
        (TEXT, "user,friend\n007,7\n7,007\n007,7\n7,7\n7,gone\n", [["007", "7"], ["7", "007"]]),
        (TEXT, "\ufeffa;c;since\r\n007;b;2020\r\n\r\n", [["007", "b"]]),
        (NUMBERS, "source_id:token\ttarget_id:token\n10\t30\n99\t10\n", [[10, 30]]),
    ],
)
def test_each_pair_of_two_known_users_is_kept_once(
    rows: RawRows, text: str, edges: list[list[object]], tmp_path: Path
) -> None:
    found, note = read_social(write(tmp_path, text), rows)
    assert found.tolist() == edges
    lines = len([line for line in text.splitlines() if line]) - 1
    assert note.startswith(f"{len(edges)} social edges of {lines} lines")


@pytest.mark.parametrize(
    ("rows", "text", "message"),
    [
        (TEXT, "user\n007\n", "line 1: friends need two columns"),
        (TEXT, "007,7\n7,b\n", "line 1: '007' and '7' are users; the first line must name the columns"),
        (TEXT, "user,friend\nx,y\n", "no line names two users who are left; its first one has 'x', 'y'"),
        (TEXT, "user,friend\n", "friends.csv"),
        (TEXT, "user,friend\n7,\n", "line 2"),
        (NUMBERS, "user,friend\n10,x\n", "line 2"),
        (NUMBERS, "user,friend\n10,20,30\n", "line 2"),
    ],
)
def test_files_that_are_no_friends(rows: RawRows, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_social(write(tmp_path, text), rows)
    assert "\n" not in str(caught.value)


def test_friends_are_numbered_as_users_are(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user,item\n" + "".join(f"{u * 10},{i}\n" for u in range(1, 5) for i in range(u, u + 12)))
    friends = write(tmp_path, "user,friend\n40,10\n20,30\n99,10\n")
    data = prepare("shop", log, Recipe(), tmp_path / "out", social=friends)
    assert data.task == "social" and data.has_friends
    assert data.social is not None and data.users_by_id.take(data.social).tolist() == [[20, 30], [40, 10]]
    assert any("2 social edges of 3 lines" in note for note in data.meta["preparation"]["notes"])


@pytest.mark.parametrize(
    ("recipe", "message"),
    [(Recipe(task="sequential"), "not for task='sequential'"), (Recipe(session="day"), "session='day'")],
)
def test_friends_are_for_sets_of_items(recipe: Recipe, message: str, tmp_path: Path) -> None:
    log, friends = tmp_path / "log.csv", write(tmp_path, "user,friend\n1,2\n")
    log.write_text("user,item,timestamp\n" + "".join(f"{n % 3},{n},{n}\n" for n in range(60)))
    with pytest.raises(DataError, match=message):
        prepare("shop", log, recipe, social=friends)


def test_the_task_social_needs_friends(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user,item\n" + "".join(f"{n % 3},{n}\n" for n in range(60)))
    with pytest.raises(DataError, match="the task social needs pairs of friends"):
        prepare("shop", log, Recipe(task="social"))
