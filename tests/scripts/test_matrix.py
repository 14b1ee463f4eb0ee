"""Tests of the matrix: a finished cell is stored with its tree and versions, others are not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
import os, pytest
def test_two(): pass
def test_fails(): assert "MKL_CBWR" in os.environ
@pytest.mark.skip(reason="no")
def test_skipped(): pass
"""
INTERPRETER = """#!/bin/sh
if [ "$1" = -c ]; then cat packages.json; exit; fi
. ./suite.sh
printf %s "$OMP_NUM_THREADS" >> runs.txt
for last; do case "$last" in --junit-xml=*) file=${last#--junit-xml=};; esac; done
[ "$dies" ] || echo '<s><testcase classname="a" name="b"/></s>' > "$file"
"""

Script = Callable[[str], ModuleType]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return __import__


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Create a repository with a fake interpreter that runs one test, and a file that it reads."""
    (tmp_path / ".gitignore").write_text("runs.txt\npackages.json\nkept/\n__pycache__/\n.pytest_cache/\n")
    (tmp_path / "suite.sh").write_text("true\n")
    (tmp_path / "packages.json").write_text('{"python": "3.11.7", "torch": "8"}')
    (tmp_path / "python").write_text(INTERPRETER)
    (tmp_path / "python").chmod(0o755)
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(root: Path, *arguments: str) -> None:
    names = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *names, *arguments], cwd=root, check=True)


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "a")


def test_a_finished_cell_is_reused_until_something_changes(
    script: Script, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = script("matrix")
    monkeypatch.setattr(script("venvs"), "ROOT", checkout)
    kept = checkout / "kept"
    cell = matrix.Cell("one", str(checkout / "python"), {"OMP_NUM_THREADS": "1"})

    def runs(cell: object) -> tuple[object, str]:
        (checkout / "runs.txt").write_text("")
        return matrix.run_cell(cell, checkout, kept), (checkout / "runs.txt").read_text()

    first, threads = runs(cell)
    assert threads == "1" and (first.passed, first.packages["torch"]) == (1, "8")
    assert matrix.Result(**json.loads((kept / "one.json").read_text())) == first
    assert runs(cell) == (first, "")
    assert runs(replace(cell, variables={"OMP_NUM_THREADS": "2"}))[1] == "2"
    assert runs(cell)[1] == "1"
    (checkout / "suite.sh").write_text("false || true\n")  # not committed, but another tree
    changed, threads = runs(cell)
    assert (changed.tree.count("+"), threads) == (1, "1") and runs(cell)[1] == ""
    (checkout / "new.txt").write_text("nor is a new file")
    assert runs(cell)[1] == "1"
    commit(checkout)
    assert runs(cell)[1] == "1" and runs(cell)[0].tree.count("+") == 0
    (checkout / "packages.json").write_text(
        '{"python": "3.11.7", "torch": "9"}'
    )  # another version is installed
    assert runs(cell)[1] == "1" and runs(replace(cell, arguments=("-x",)))[1] == "1"


def test_a_cell_that_did_not_end_is_not_stored(
    script: Script, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = script("matrix")
    monkeypatch.setattr(script("venvs"), "ROOT", checkout)
    cell, kept = matrix.Cell("one", str(checkout / "python")), checkout / "kept"
    assert matrix.run_cell(cell, checkout, kept) is not None
    for line, said in (("dies=1", "did not run to its end"), ("echo x > new.txt", "the tree was changed")):
        (checkout / "suite.sh").write_text(f"{line}\n")
        assert matrix.run_cell(cell, checkout, kept) is None
        assert said in capsys.readouterr().out and list(kept.glob("*.json")) == []


def test_the_report_of_pytest_is_read(
    script: Script, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = script("matrix")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("MKL_CBWR", "AVX2")  # of the calling process, not of a cell
    (checkout / "test_few.py").write_text(SUITE)
    (checkout / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    result = matrix.run_cell(matrix.Cell("one", sys.executable), checkout, checkout / "kept")
    assert (result.passed, result.failed, result.skipped) == (1, 1, 1)
    assert result.packages["pytest"] == pytest.__version__
    head, row, failure = matrix.table([result], "0" * 40).splitlines()
    assert head.split()[-5:] == ["passed", "failed", "skipped", "seconds", "tree"]
    assert row.split()[-6:-3] == ["1", "1", "1"] and row.endswith(f"{result.tree[:9]}+changes (another)")
    assert failure == "FAILED in one: test_few::test_fails"
    assert "another" not in matrix.table([result], result.tree)


def test_a_cell_for_each_instruction_set_of_the_processor(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = script("matrix")
    monkeypatch.setattr(matrix, "_capability", lambda python, wanted: wanted.replace("512", "2"))
    cells = list(matrix.processor_cells("python"))
    names = ["default-threads-1", "default-threads-2", "avx2-threads-1", "avx2-threads-2", "mkl-compatible"]
    assert [cell.name for cell in cells] == names
    assert cells[3].variables["ATEN_CPU_CAPABILITY"] == "avx2"
    assert cells[3].variables["MKL_NUM_THREADS"] == "2"
    assert cells[4].variables["MKL_CBWR"] == "COMPATIBLE"


def test_torch_reads_the_variable(script: Script) -> None:
    assert script("matrix")._capability(sys.executable, "default") == "default"


def test_lowest_versions_are_pyprojects_and_must_be_installed(script: Script) -> None:
    venvs = script("venvs")
    floors = venvs.floors()
    assert floors["gymnasium"] == "1.2.2" and {"torch", "pytest", "moviepy", "numpy"} <= set(floors)
    assert "mypy" not in floors  # the tests do not need it
    exact = {name: f"{floor}.0" for name, floor in floors.items()}
    venvs.refuse_unreached(exact | {"torch": f"{floors['torch']}+cpu"})
    for version in ("99.0", floors["scipy"] + "9"):
        said = rf"raise them: scipy>={floors['scipy']} \(installed: {version}\)"
        with pytest.raises(SystemExit, match=said):
            venvs.refuse_unreached(exact | {"scipy": version})


def test_a_python_is_found_by_its_version(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    venvs = script("venvs")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    version = "{}.{}".format(*sys.version_info)
    assert Path(str(venvs.find_python(version))).exists()
    assert venvs.find_python("3.99") is None and venvs.constrained(Path("none"), "3.99") is None
    assert venvs.packages(sys.executable)["python"].startswith(version)
