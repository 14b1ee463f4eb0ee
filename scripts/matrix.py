"""Runs the fast tests and the doctests in many configurations, stores each finished cell, prints one table.

A cell is an interpreter with its installed packages, and environment variables. Its counts are written to
``.matrix/NAME.json`` with the commit, all versions and the machine, its output to ``.matrix/NAME.log``. A
cell that finished on the same tree with the same versions is not run again.

    python scripts/matrix.py processors              # the vector instructions that this processor has
    python scripts/matrix.py floor|newest|pythons    # a virtual environment each (scripts/venvs.py)
    python scripts/matrix.py table                   # all stored cells
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import venvs

CAPABILITIES = ("default", "avx2", "avx512")
"""Vector instructions of torch's kernels: values of ``ATEN_CPU_CAPABILITY``."""
THREADS = (1, 2)
VARIABLES = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that a cell sets or unsets; their values in the calling process are not used."""
TESTS = "--doctest-modules tests refit_env agents"
SHOWN = ("python", "torch", "numpy", "gymnasium", "stable-baselines3")


@dataclass(frozen=True)
class Cell:
    """A configuration for the tests."""

    name: str
    python: str
    """The interpreter."""
    variables: dict[str, str] = field(default_factory=dict)
    """Added to the environment, in which none of ``VARIABLES`` is set."""
    arguments: tuple[str, ...] = ()
    """Arguments of pytest."""


@dataclass(frozen=True)
class Result:
    """The result of a cell, and the tree and versions that it was run with."""

    name: str
    tree: str
    variables: dict[str, str]
    arguments: list[str]
    packages: dict[str, str]
    machine: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    failures: list[str]

    def made_by(self, cell: Cell, tree: str, packages: dict[str, str]) -> bool:
        """Return whether the result is of this cell on this tree with these versions."""
        wanted = (tree, cell.variables, list(cell.arguments), packages)
        return wanted == (self.tree, self.variables, self.arguments, self.packages)


def tree_of(root: Path) -> str:
    """Return the commit of a checkout, with a hash of the changes since."""
    commit = _git(root, "rev-parse", "HEAD").decode().strip()
    changes = hashlib.sha256(_git(root, "diff", "--binary", "HEAD"))
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z").split(b"\0")[:-1]
    for name in sorted(new):
        changes.update(name + (root / os.fsdecode(name)).read_bytes())
    clean = changes.digest() == hashlib.sha256().digest()
    return commit if clean else f"{commit}+{changes.hexdigest()[:12]}"


def processor_cells(python: str, arguments: Sequence[str] = ()) -> Iterator[Cell]:
    """Yield a cell for each set of vector instructions that the processor has and each number of threads.

    In one more cell, MKL sums in the same order as on every processor.
    """
    for capability in CAPABILITIES:
        if _capability(python, capability) == capability:
            for threads in THREADS:
                variables = {"ATEN_CPU_CAPABILITY": capability} | _threads(threads)
                yield Cell(f"{capability}-threads-{threads}", python, variables, tuple(arguments))
    yield Cell("mkl-compatible", python, {"MKL_CBWR": "COMPATIBLE"} | _threads(1), tuple(arguments))


def run_cell(cell: Cell, root: Path, kept: Path) -> Result | None:
    """Run a cell, or return its stored result for the same tree and versions.

    Returns:
        The result; None, without storing anything, if the tests did not run to their end on one tree.
    """
    tree, packages = tree_of(root), venvs.packages(cell.python)
    file, log, report = (kept / f"{cell.name}.{end}" for end in ("json", "log", "xml"))
    if file.exists():
        found = Result(**json.loads(file.read_text(encoding="utf-8")))
        if found.made_by(cell, tree, packages):
            print(f"{cell.name}: kept", flush=True)
            return found
        file.unlink()
    print(f"{cell.name}: runs", flush=True)
    kept.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    command = [cell.python, "-m", "pytest", "-q", "-m", "not slow", f"--junit-xml={report}", *cell.arguments]
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES} | cell.variables
    begin = time.perf_counter()
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(command, cwd=root, env=environment, stdout=out, stderr=out, check=False)
    if done.returncode not in (0, 1) or not report.exists():
        print(f"{cell.name}: did not run to its end (exit status {done.returncode}), see {log}", flush=True)
        return None
    if tree_of(root) != tree:
        print(f"{cell.name}: the tree was changed while the tests ran", flush=True)
        return None
    counts, failures = read_report(report)
    machine = f"{platform.machine()}, {platform.system()}, {os.cpu_count()} processors"
    result = Result(
        cell.name, tree, cell.variables, list(cell.arguments), packages, machine, **counts,
        seconds=round(time.perf_counter() - begin, 1), failures=failures,
    )  # fmt: skip
    part = file.with_suffix(".part")
    part.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    part.replace(file)
    return result


def read_report(path: Path) -> tuple[dict[str, int], list[str]]:
    """Read the counts of pytest's XML report, and the names of the tests that failed."""
    cases = list(ET.parse(path).iter("testcase"))
    failed = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = sum(c.find("skipped") is not None for c in cases)
    counts = {"passed": len(cases) - len(failed) - skipped, "failed": len(failed), "skipped": skipped}
    return counts, [f"{c.get('classname')}::{c.get('name')}" for c in failed]


def table(results: Sequence[Result], tree: str) -> str:
    """Format results as lines, with results of another tree marked, and the names of failed tests below."""
    head = ["cell", *SHOWN, "passed", "failed", "skipped", "seconds", "tree"]
    rows = [head]
    for r in results:
        counts = map(str, (r.passed, r.failed, r.skipped, round(r.seconds)))
        tree_name = _short(r.tree) + ("" if r.tree == tree else " (another)")
        rows.append([r.name, *(r.packages.get(name, "") for name in SHOWN), *counts, tree_name])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines + [f"FAILED in {r.name}: {name}" for r in results for name in r.failures])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that the command line names; the exit status is 0 if all passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("processors", "floor", "newest", "pythons", "table"))
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="others are beside it: .venv-floor")
    parser.add_argument("--pythons", nargs="+", default=["3.11", "3.12", "3.13", "3.14"], metavar="3.N")
    parser.add_argument("--torch", help="requirement for 'newest' in place of that of constraints.txt")
    parser.add_argument("--pytest", default="", help=f"arguments of pytest in place of '{TESTS}'")
    options = parser.parse_args(arguments)
    root, kept = venvs.ROOT, venvs.ROOT / ".matrix"
    given = tuple(shlex.split(options.pytest or TESTS))

    venv: Path = options.venv.absolute()

    def beside(name: str) -> Path:
        return venv.with_name(f"{venv.name}-{name}")

    done: list[Result | None] = []
    if options.what == "processors":
        python = str(venv / "bin" / "python")
        done = [run_cell(cell, root, kept) for cell in processor_cells(python, given)]
    elif options.what in ("floor", "newest"):
        low = options.what == "floor"
        path = venvs.lowest(beside("floor")) if low else venvs.newest(beside("newest"), options.torch)
        done = [run_cell(Cell(options.what, str(path), _threads(1), given), root, kept)]
    elif options.what == "pythons":
        for version in options.pythons:
            found = venvs.constrained(beside(version), version)
            if found is None:
                print(f"Python {version} is not on this machine: not tested")
                continue
            done.append(run_cell(Cell(f"python-{version}", str(found), _threads(1), given), root, kept))
    results = [Result(**json.loads(p.read_text(encoding="utf-8"))) for p in sorted(kept.glob("*.json"))]
    print(table(results, tree_of(root)))
    return int(any(result is None or result.failed > 0 for result in done))


def _short(tree: str) -> str:
    commit, _, changes = tree.partition("+")
    return commit[:9] + ("+changes" if changes else "")


def _threads(number: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(number))


def _capability(python: str, wanted: str) -> str:
    """Return the vector instructions that torch uses when ``wanted`` is set: the processor may lack it."""
    program = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    variables = os.environ | {"ATEN_CPU_CAPABILITY": wanted}
    done = subprocess.run(
        [python, "-W", "ignore", "-c", program], env=variables, capture_output=True, text=True, check=True
    )
    return done.stdout.strip().lower().replace("no avx", "default")  # the name in torch 2.8


def _git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True).stdout


if __name__ == "__main__":
    sys.exit(main())
