"""Cells: finished ones are kept, failed ones are reported and tried again, settings must agree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.experiments.cell_processes import Processes, do_cell
from agents.experiments.cells import Outcome, _end, _Queue, _try_lock, run_cells
from agents.experiments.records import Cell, CellError, differences, read_cell, read_records

FILE = "cells.jsonl"


def cell(key: str, value: Any = 1, **more: Any) -> Cell:
    """A cell whose work any process can import: it reads its result from a text."""
    return Cell(key, json.loads, (json.dumps({"value": value}),), **more)


def python(key: str, code: str, **more: Any) -> Cell:
    """A cell that evaluates Python code."""
    return Cell(key, eval, (code,), **more)


def test_cells_run_once_and_what_failed_is_tried_again(tmp_path: Path) -> None:
    broken = Cell("b", json.loads, ("{",))
    heard: list[Outcome] = []
    failed = run_cells([cell("a"), broken, cell("c")], tmp_path / FILE, on_end=heard.append)
    assert list(failed) == ["b"] and "JSONDecodeError" in failed["b"]
    assert read_records(tmp_path / FILE)["a"]["value"] == 1
    assert "Traceback" in broken.error_path(tmp_path / FILE).read_text()
    assert sorted(outcome.cell.key for outcome in heard) == ["a", "b", "c"]
    assert all((outcome.result is None) == (outcome.cell.key == "b") for outcome in heard)

    heard.clear()
    mended = cell("b", 2)
    assert run_cells([cell("a"), mended, cell("c")], tmp_path / FILE, on_end=heard.append) == {}
    assert [outcome.cell.key for outcome in heard] == ["b"]
    assert not mended.error_path(tmp_path / FILE).exists()


def test_needs_come_first_and_their_failure_is_passed_on(tmp_path: Path) -> None:
    lines = f"map(__import__('json').loads, open({str(tmp_path / FILE)!r}))"
    reads = f"next({{'value': line['value']}} for line in {lines} if line['key'] == 'first')"
    cells = [cell("first", 7), python("second", reads, needs=("first",)), cell("third")]
    assert run_cells(cells, tmp_path / FILE, workers=3) == {}
    assert read_records(tmp_path / FILE)["second"]["value"] == 7

    broken = [python("x", "1 / 0"), cell("y", needs=("x",)), cell("z", needs=("y",)), cell("w")]
    failed = run_cells(broken, tmp_path / FILE)
    assert set(failed) == {"x", "y", "z"} and "ZeroDivisionError" in failed["x"]
    assert failed["y"] == "needs x, which failed" and failed["z"] == "needs y, which failed"
    assert "w" in read_records(tmp_path / FILE) and "y" not in read_records(tmp_path / FILE)


def test_what_others_work_with_is_made_again_where_it_is_gone_and_wanted(tmp_path: Path) -> None:
    left = tmp_path / "left.txt"
    write = f"{{'characters': __import__('pathlib').Path({str(left)!r}).write_text('here')}}"
    reads = f"{{'read': __import__('pathlib').Path({str(left)!r}).read_text()}}"
    base = python("base", write, leaves=left)
    heard: list[str] = []

    def run(*cells: Cell) -> None:
        heard.clear()
        assert run_cells(cells, tmp_path / FILE, on_end=lambda outcome: heard.append(outcome.cell.key)) == {}

    run(base)
    left.unlink()
    run(base, cell("alone"))  # nothing needs it
    assert heard == ["alone"] and not left.exists()
    run(base, python("reader", reads, needs=("base",)))
    assert heard == ["base", "reader"]
    run(base, python("reader", reads, needs=("base",)))
    assert heard == []


def test_what_another_process_finished_meanwhile_is_not_run_again(tmp_path: Path) -> None:
    other = tmp_path / FILE  # another command appends to it while "a" runs
    text = json.dumps({"key": "b", "settings": {}, "value": 5}) + "\n"
    writes = f"open({str(other)!r}, 'a').write({text!r}) and {{'value': 1}}"
    heard: list[str] = []
    cells = [python("a", writes), python("b", "1 / 0"), cell("c", needs=("b",))]
    assert (
        run_cells(cells, tmp_path / FILE, workers=1, on_end=lambda outcome: heard.append(outcome.cell.key))
        == {}
    )
    assert heard == ["a", "c"]
    assert read_records(other)["b"]["value"] == 5


def test_each_cell_has_a_process_and_one_thread_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "5")
    code = "(lambda os: {'pid': os.getpid(), 'threads': os.environ['OMP_NUM_THREADS']})(__import__('os'))"
    assert run_cells([python("a", code), python("b", code)], tmp_path / FILE) == {}
    found = [read_records(tmp_path / FILE)[key] for key in "ab"]
    assert len({os.getpid(), found[0]["pid"], found[1]["pid"]}) == 3
    assert all(f["threads"] == "1" for f in found)
    assert "OMP_NUM_THREADS" not in os.environ and os.environ["MKL_NUM_THREADS"] == "5"


def test_a_process_that_dies_is_a_failure(tmp_path: Path) -> None:
    dies = [python("quiet", "__import__('os')._exit(3)"), python("killed", "__import__('os').kill(0x0, 0)")]
    dies[1] = python("killed", "(lambda os: os.kill(os.getpid(), 9))(__import__('os'))")
    failed = run_cells([*dies, cell("fine")], tmp_path / FILE)
    assert failed["quiet"] == "its process ended with code 3"
    assert "out of memory?" in failed["killed"]
    assert (read_cell(tmp_path / FILE, cell("fine")) or {})["value"] == 1


def test_other_settings_are_refused_before_anything_runs(tmp_path: Path) -> None:
    old = cell("a", settings={"agent": {"rate": 1, "size": [2]}, "seed": 0})
    do_cell(old, tmp_path / FILE)
    assert run_cells([old], tmp_path / FILE) == {}
    new = cell("a", settings={"agent": {"rate": 3, "size": [2]}, "seed": 0})
    with pytest.raises(
        CellError, match=r"cells\.jsonl: a is stale, agent\.rate was 1, now 3\. --redo measures"
    ):
        run_cells([cell("b"), new], tmp_path / FILE)
    do_cell(cell("c", settings={"seed": 1}), tmp_path / FILE)
    with pytest.raises(CellError) as both:
        run_cells([new, cell("c", settings={"seed": 2})], tmp_path / FILE)
    assert "a is stale" in str(both.value) and "c is stale, seed was 1" in str(both.value)
    assert "b" not in read_records(tmp_path / FILE)


def test_differences_name_what_was_added_and_what_is_gone() -> None:
    assert differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"d": 3}}) == [
        "b.c was 2, now not set",
        "b.d was not set, now 3",
    ]
    assert differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) == []
    (long,) = differences({"a": "x" * 1000}, {"a": 1})
    assert len(long) < 100 and long.endswith("..., now 1")


@pytest.mark.parametrize(
    ("cells", "workers", "message"),
    [
        ([cell("a")], 0, "workers=0"),
        ([cell("a"), cell("a")], 1, "two cells have the key 'a'"),
        ([cell("a", needs=("b",)), cell("b")], 1, "needs 'b', which is not before it"),
    ],
)
def test_plans_that_cannot_be_finished(cells: list[Cell], workers: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run_cells(cells, tmp_path / FILE, workers=workers)


def test_an_interrupted_run_leaves_no_process_and_no_half_file(tmp_path: Path) -> None:
    slow = python("slow", "__import__('time').sleep(60)")

    def stop(outcome: Outcome) -> None:
        raise KeyboardInterrupt

    with pytest.raises(
        KeyboardInterrupt, match="1 of 2 cells are finished and kept; the same command goes on"
    ):
        run_cells([slow, cell("quick")], tmp_path / FILE, on_end=stop)
    assert list(read_records(tmp_path / FILE)) == ["quick"]
    import multiprocessing

    assert not multiprocessing.active_children()


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="a POSIX mask of signals")
def test_ctrl_c_is_the_parents(tmp_path: Path) -> None:
    masked = python("masked", "{'blocked': 2 in __import__('signal').pthread_sigmask(0, [])}")
    assert run_cells([masked], tmp_path / FILE) == {}
    assert read_records(tmp_path / FILE)["masked"]["blocked"] is True
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_cells_do_not_outlive_a_killed_comparison(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    sleeps = f"open({str(pid)!r}, 'w').write(str(__import__('os').getpid())), __import__('time').sleep(300)"
    code = (
        "from pathlib import Path; from agents.experiments.cells import Cell, run_cells\n"
        f"run_cells([Cell('a', eval, ({sleeps!r},))], Path({str(tmp_path / FILE)!r}))"
    )
    script = tmp_path / "script.py"
    script.write_text("if __name__ == '__main__':\n    " + code.replace("\n", "\n    "))
    with subprocess.Popen([sys.executable, str(script)]) as parent:
        _wait_until(lambda: pid.exists() and pid.read_text() != "")
        os.kill(int(pid.read_text()), 0)  # it is there
        parent.kill()
    _wait_until(lambda: not _alive(int(pid.read_text())))


def _wait_until(true: Callable[[], bool]) -> None:
    """Wait for something that another process brings about."""
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_stale_cells_are_measured_again_on_demand(tmp_path: Path) -> None:
    do_cell(cell("a", 1, settings={"rate": 1}), tmp_path / FILE)
    do_cell(cell("b", 1, settings={"rate": 1}), tmp_path / FILE)
    cells = [cell("a", 2, settings={"rate": 2}), cell("b", 2, settings={"rate": 1})]
    broken = [Cell("a", json.loads, ("{",), {"rate": 2}), cells[1]]
    assert set(run_cells(broken, tmp_path / FILE, redo=True)) == {"a"}
    assert read_records(tmp_path / FILE)["a"]["settings"] == {"rate": 1}  # until there is another
    assert run_cells(cells, tmp_path / FILE, redo=True) == {}
    assert [read_records(tmp_path / FILE)[key]["value"] for key in "ab"] == [2, 1]


def test_a_cell_that_another_command_is_making_is_waited_for_and_not_repeated(tmp_path: Path) -> None:
    """Two commands share a folder: each cell is made once, and both end when all is finished."""
    made = tmp_path / "made.txt"
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from agents.experiments.cells import run_cells\n"
        "from agents.experiments.records import Cell\n"
        "if __name__ == '__main__':\n"
        f"    made = {str(made)!r}\n"
        "    code = f\"(open({made!r}, 'a').write('NAME '), {{'value': __import__('time').sleep(.3)}})[1]\"\n"
        "    cells = [Cell(name, eval, (code.replace('NAME', name),)) for name in 'abc']\n"
        "    cells.append(Cell('d', eval, (code.replace('NAME', 'd'),), needs=('a', 'b', 'c')))\n"
        f"    assert run_cells(cells, Path({str(tmp_path / 'folder' / FILE)!r}), workers=1) == {{}}\n"
    )
    root = Path(__file__).resolve().parents[3]
    environment = os.environ | {"PYTHONPATH": str(root)}
    commands = [subprocess.Popen([sys.executable, str(script)], env=environment) for _ in range(2)]
    assert [command.wait(timeout=300) for command in commands] == [0, 0]
    assert sorted(made.read_text().split()) == ["a", "b", "c", "d"]


def test_a_cell_waits_while_another_command_makes_again_what_it_begins_from(tmp_path: Path) -> None:
    base = cell("base")
    do_cell(base, tmp_path / FILE)
    queue = _Queue(tmp_path / FILE, [cell("reader", needs=("base",))], {"base"}, redo=False)
    lock = _try_lock(tmp_path / FILE, "base")
    assert lock is not None and queue.begin() is None and _try_lock(tmp_path / FILE, "base") is None
    lock.release()
    job = queue.begin()
    assert job is not None
    assert _try_lock(tmp_path / FILE, "reader") is None  # it is ours until it has ended
    assert _end(job, Processes(), tmp_path / FILE).error == ""
    free = _try_lock(tmp_path / FILE, "reader")
    assert free is not None
    free.release()
