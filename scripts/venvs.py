"""Creates virtual environments for ``scripts/matrix.py``: the lowest versions, the newest, each Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXTRA = "test"
"""The extra of pyproject.toml with the requirements of the tests."""


def project() -> dict[str, Any]:
    """Return the table ``project`` of pyproject.toml."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def find_python(version: str) -> str | None:
    """Return the interpreter of a version like ``"3.12"``, on the path or of pyenv; None if there is none."""
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

    uv resolves them: direct requirements of the package and its tests have their lowest versions, indirect
    ones the newest. uv reads its variables: with ``UV_TORCH_BACKEND=cpu`` torch comes from PyTorch's index.

    Args:
        venv: folder of the virtual environment; created if missing.

    Returns:
        Its interpreter.

    Raises:
        SystemExit: if there is no such Python, or a lowest version cannot be installed.
        subprocess.CalledProcessError: if an installation fails.
    """
    version = project()["requires-python"].removeprefix(">=")
    python = _made(venv, version)
    pip(python, "--upgrade", "uv")
    uv, wanted = str(python.with_name("uv")), venv / "lowest.txt"
    wanted.unlink(missing_ok=True)  # otherwise uv would reuse its versions
    command = [uv, "pip", "compile", "--quiet", "--resolution", "lowest-direct", "--python-version", version]
    _run([*command, "--extra", EXTRA, "pyproject.toml", "--output-file", str(wanted)])
    _run([uv, "pip", "install", "--quiet", "--python", str(python), "--requirement", str(wanted)])
    pip(python, "--no-deps", "--editable", ".")
    refuse_unreached(packages(python))
    return python


def newest(venv: Path, torch: str | None) -> Path:
    """Install the newest versions that pyproject.toml allows, on the lowest Python.

    Args:
        venv: folder of the virtual environment; created if missing.
        torch: the requirement for torch; None for the version of constraints.txt, because the newest may be a
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
        venv: folder of the virtual environment; created if missing.
        version: version of Python, such as ``"3.12"``.

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
    """Return the versions of all packages of an interpreter, and its own version."""
    program = (
        "import json, platform, importlib.metadata as m;"
        "found = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()};"
        "print(json.dumps({'python': platform.python_version()} | found))"
    )
    found: dict[str, str] = json.loads(_output([str(python), "-c", program]) or "{}")
    return found


def floors() -> dict[str, str]:
    """Return the lowest version of each direct requirement of package and tests, by normalised name."""
    out: dict[str, str] = {}
    for line in requirements(EXTRA):
        name, _, bound = line.replace("_", "-").partition(">=")
        out[name.lower()] = bound.split(",")[0]
    return out


def requirements(extra: str | None = None) -> list[str]:
    """Return the requirements of the package and of an extra, with nested extras expanded."""
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
    """Raise an error for lowest versions below the installed ones, because they cannot be tested.

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
    """Return the interpreter of a virtual environment of this Python, which is created if needed."""
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
    """Return the stripped output of a program; None if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
