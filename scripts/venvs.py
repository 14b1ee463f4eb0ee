"""Virtual environments for ``scripts/matrix.py``: the lowest versions, the newest ones, each Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXTRA = "test"
"""The extra of pyproject.toml that holds what the tests need."""


def project() -> dict[str, Any]:
    """The table ``project`` of pyproject.toml."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def find_python(version: str) -> str | None:
    """The interpreter of a version like ``"3.12"``: on the path, or among pyenv's; None if there is none."""
    names = [f"python{version}", "python3"]
    if shutil.which("pyenv"):
        root = Path(_output(["pyenv", "root"]) or ".")
        names += [str(path) for path in sorted(root.glob(f"versions/{version}.*/bin/python"))[::-1]]
    for name in names:
        path = shutil.which(name)
        if path and _output([path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]) == version:
            return path
    return None


def lowest(venv: Path) -> Path:
    """Install the lowest versions that pyproject.toml allows, on the lowest Python.

    uv resolves them: what the package and its tests require directly is at its floor, what those require in
    turn as new as they allow. Its variables count: ``UV_TORCH_BACKEND=cpu`` takes torch from PyTorch's index.

    Args:
        venv: folder of the virtual environment; made where there is none.

    Returns:
        Its interpreter.

    Raises:
        SystemExit: if there is no such Python, or a floor is one that cannot be installed.
        subprocess.CalledProcessError: if an installation fails.
    """
    version = project()["requires-python"].removeprefix(">=")
    python = _made(venv, version)
    pip(python, "--upgrade", "uv")
    uv, wanted = str(python.with_name("uv")), venv / "lowest.txt"
    wanted.unlink(missing_ok=True)  # uv would keep to it
    command = [uv, "pip", "compile", "--quiet", "--resolution", "lowest-direct", "--python-version", version]
    _run([*command, "--extra", EXTRA, "pyproject.toml", "--output-file", str(wanted)])
    _run([uv, "pip", "install", "--quiet", "--python", str(python), "--requirement", str(wanted)])
    pip(python, "--no-deps", "--editable", ".")
    refuse_unreached(packages(python))
    return python


def newest(venv: Path, torch: str | None) -> Path:
    """Install the newest versions that pyproject.toml allows, on the lowest Python.

    Args:
        venv: folder of the virtual environment; made where there is none.
        torch: the requirement for torch; None for the version of constraints.txt, since the newest may be a
            build for GPUs of several gigabytes.

    Returns:
        Its interpreter.

    Raises:
        SystemExit: if there is no such Python.
        subprocess.CalledProcessError: if the installation fails.
    """
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    torch = torch or next(line for line in pinned if line.startswith("torch=="))
    python = _made(venv, project()["requires-python"].removeprefix(">="))
    pip(python, "--upgrade", "--upgrade-strategy", "eager", torch, "--editable", f".[{EXTRA}]")
    return python


def constrained(venv: Path, version: str) -> Path | None:
    """Install the versions of constraints.txt on a Python.

    Args:
        venv: folder of the virtual environment; made where there is none.
        version: like ``"3.12"``.

    Returns:
        Its interpreter, or None if this machine has no such Python.

    Raises:
        subprocess.CalledProcessError: if the installation fails.
    """
    if find_python(version) is None:
        return None
    python = _made(venv, version)
    pip(python, "--constraint", "constraints.txt", "--editable", f".[{EXTRA}]")
    return python


def pip(python: Path, *arguments: str) -> None:
    """Run ``pip install``."""
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*install, *arguments])


def packages(python: Path | str) -> dict[str, str]:
    """The versions of all that is installed beside an interpreter, and its own."""
    program = (
        "import json, platform, importlib.metadata as m;"
        "found = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()};"
        "print(json.dumps({'python': platform.python_version()} | found))"
    )
    found: dict[str, str] = json.loads(_output([str(python), "-c", program]) or "{}")
    return found


def floors() -> dict[str, str]:
    """The lowest version of each direct requirement of the package and its tests, by normal name."""
    out: dict[str, str] = {}
    for line in requirements(EXTRA):
        name, _, bound = line.replace("_", "-").partition(">=")
        out[name.lower()] = bound.split(",")[0]
    return out


def requirements(extra: str | None = None) -> list[str]:
    """The lines of the package's requirements, and of an extra's, those of other extras in it taken apart."""
    table = project()
    lines = list(table["dependencies"])
    pending = [extra] if extra else []
    while pending:
        for line in table["optional-dependencies"][pending.pop()]:
            if line.startswith(f"{table['name']}["):
                pending += line.partition("[")[2].rstrip("]").split(",")
            else:
                lines.append(line)
    return lines


def refuse_unreached(installed: dict[str, str]) -> None:
    """Refuse floors below what is installed: a version that nobody can have is not tested.

    Raises:
        SystemExit: naming them.
    """
    wrong = [
        f"{name}>={floor} (installed: {installed.get(name, 'none')})"
        for name, floor in floors().items()
        if not f"{installed.get(name, '')}.".startswith(f"{floor}.")
        and installed.get(name, "").partition("+")[0] != floor
    ]
    if wrong:
        raise SystemExit(f"floors of pyproject.toml that cannot be installed, raise them: {', '.join(wrong)}")


def _made(venv: Path, version: str) -> Path:
    """The interpreter of a virtual environment of this Python; one of another Python is made again."""
    python = venv / "bin" / "python"
    if not python.exists() or not packages(python).get("python", "").startswith(f"{version}."):
        found = find_python(version)
        if found is None:
            raise SystemExit(f"Python {version} is not on this machine")
        _run([found, "-m", "venv", "--clear", str(venv)])
    return python


def _run(command: list[str]) -> None:
    subprocess.run(command, cwd=ROOT, check=True)


def _output(command: list[str]) -> str | None:
    """What a program prints, stripped; None if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
