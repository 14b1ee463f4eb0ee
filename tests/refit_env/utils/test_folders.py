from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from refit_env.utils import folders
from refit_env.utils.folders import atomic_folder, exchange, held, lock_of, restore


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a cache folder for this test alone."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(folder: Path, text: str) -> None:
    """Write two files with the same content."""
    for name in ("a", "b"):
        (folder / name).write_text(text)


def content(folder: Path) -> set[str]:
    return {path.read_text() for path in sorted(folder.iterdir())}


@contextmanager
def killed() -> Iterator[None]:
    """Simulate a killed process: nothing is cleaned up."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", lambda *args, **options: None)
        yield


def beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path.name not in (target.name, "cache"))


@pytest.mark.parametrize("exchanges", [True, False])
def test_the_new_folder_replaces_the_old(
    exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchanges:
        monkeypatch.setattr(folders, "exchange", lambda one, other: False)
    target = tmp_path / "deep" / "shop"
    for text in ("old", "new"):
        with atomic_folder(target) as folder:
            fill(folder, text)
            assert not target.exists() or content(target) == {"old"}
        assert content(target) == {text} and beside(target) == []
    usual = tmp_path / "usual"
    usual.mkdir()
    assert target.stat().st_mode == usual.stat().st_mode


def test_after_an_error_only_the_old_folder_is_left(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "shop") as folder:
        fill(folder, "old")
    with pytest.raises(OSError, match="disk full"), atomic_folder(tmp_path / "shop") as folder:
        (folder / "a").write_text("new")
        raise OSError("disk full")
    assert content(tmp_path / "shop") == {"old"} and beside(tmp_path / "shop") == []


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("step", range(4))
def test_a_kill_at_any_step_leaves_the_old_or_the_new_folder(
    step: int, exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "shop"
    with atomic_folder(target) as folder:
        fill(folder, "old")
    taken = iter(range(100))

    def stops(function):  # type: ignore[no-untyped-def]
        def run(*args, **options):  # type: ignore[no-untyped-def]
            if next(taken) == step:
                raise KeyboardInterrupt
            return function(*args, **options)

        return run

    with killed(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "exchange", stops(exchange) if exchanges else lambda one, other: False)
        patch.setattr(Path, "rename", stops(Path.rename))
        patch.setattr(Path, "chmod", stops(Path.chmod))
        with atomic_folder(target) as folder:
            fill(folder, "new")
        raise KeyboardInterrupt  # after the exchange, before the old folder is removed
    restore(target)
    assert content(target) in ({"old"}, {"new"})
    with atomic_folder(target) as folder:
        fill(folder, "next")
    assert content(target) == {"next"} and beside(target) == []


def test_only_leftovers_of_the_target_are_removed(tmp_path: Path) -> None:
    for name in (".shop.writing-abc", ".shop[1].writing-abc", ".shop2.writing-abc", ".shop.replaced"):
        (tmp_path / name).mkdir()
    with atomic_folder(tmp_path / "shop") as folder:
        fill(folder, "new")
    assert beside(tmp_path / "shop") == [".shop2.writing-abc", ".shop[1].writing-abc"]


def test_locks_are_in_the_cache(tmp_path: Path, cache: Path) -> None:
    with lock_of(tmp_path / "shop", "write") as lock, lock_of(tmp_path / "shop", "prepare"):
        assert lock.lock_file != lock_of(tmp_path / "shop", "prepare").lock_file
    assert lock_of(tmp_path / "x" / ".." / "shop", "write").lock_file == lock.lock_file
    assert Path(lock.lock_file).parent == cache / ".locks" and os.listdir(tmp_path) == ["cache"]


def test_a_released_lock_leaves_no_file(tmp_path: Path, cache: Path) -> None:
    for name in ("shop", "shop", "other"):
        with atomic_folder(tmp_path / name) as folder:
            assert len(os.listdir(cache / ".locks")) == 1
            fill(folder, "new")
    assert os.listdir(cache / ".locks") == []


def count_up(target: str, cache: str, times: int) -> None:
    """Add one to a number in a file, under the lock of a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("platformdirs.user_cache_dir", lambda _: cache)
        for _ in range(times):
            with held(lock_of(target, "count")):
                number = Path(target).read_text()
                time.sleep(0.0005)
                Path(target).write_text(str(int(number) + 1))


def test_one_process_at_a_time_holds_a_lock_whose_file_is_removed(tmp_path: Path, cache: Path) -> None:
    target = tmp_path / "number"
    target.write_text("0")
    make = multiprocessing.get_context("spawn").Process
    workers = [make(target=count_up, args=(str(target), str(cache), 40)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert target.read_text() == "120" and os.listdir(cache / ".locks") == []


def test_without_a_cache_locks_are_in_the_temporary_folder(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file in the way")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    with lock_of(tmp_path / "shop", "write") as lock:
        assert tmp_path / "temporary" in Path(lock.lock_file).parents
