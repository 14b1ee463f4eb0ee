from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
IMPORT_NAMES = {"stable-baselines3": "stable_baselines3", "sparse-dot-topn": "sparse_dot_topn"}
OPTIONAL = {"psutil": "Windows only: sparse-dot-topn brings it", "moviepy": "extra `video`"}


def declared(extra: str | None = None) -> dict[str, Requirement]:
    requirements = [Requirement(line) for line in metadata.requires("refit-env") or []]
    if extra is None:
        chosen = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    else:
        chosen = [r for r in requirements if r.marker is not None and r.marker.evaluate({"extra": extra})]
    return {r.name: r for r in chosen}


def pinned() -> dict[str, str]:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate():
                pins[normal(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return pins


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def sources(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return {name.split(".")[0] for name in found}


def test_every_direct_dependency_is_pinned_inside_its_range() -> None:
    pins = pinned()
    for requirement in (declared() | declared("dev") | declared("video")).values():
        if requirement.name == "refit-env":
            continue
        assert normal(requirement.name) in pins, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pins[normal(requirement.name)]), requirement
    assert pins["torch"] == "2.13.0"


def test_what_is_imported_is_declared() -> None:
    known = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in declared()}
    known |= set(sys.stdlib_module_names) | {"refit_env", "agents"} | set(OPTIONAL)
    for path in sources("refit_env", "agents"):
        assert imports(path) <= known, f"{path.relative_to(ROOT)} imports {imports(path) - known}"


def test_what_is_declared_is_imported() -> None:
    used = set().union(*(imports(path) for path in sources("refit_env", "agents")))
    names = {IMPORT_NAMES.get(name, name.replace("-", "_")): name for name in declared()}
    promised = {
        "stable_baselines3": "asked for by the users of the environments, used by agents/sb3",
        "tensorboard": "used through torch.utils.tensorboard",
        "pyarrow": "used through pandas.read_parquet",
    }
    assert {name for name in names if name not in used} <= set(promised)


def test_arrows_between_the_packages_go_one_way() -> None:
    for path in sources("refit_env"):
        assert "agents" not in imports(path), path
        assert "stable_baselines3" not in imports(path), path
    for path in sources("agents"):
        if "sb3" not in path.relative_to(ROOT).parts:
            assert "stable_baselines3" not in imports(path), path


def test_no_pickle_of_what_came_from_elsewhere() -> None:
    for path in sources("refit_env", "agents"):
        text = path.read_text(encoding="utf-8")
        assert "torch.load(" not in text and "pickle.load" not in text, path


def test_the_console_script_is_installed() -> None:
    scripts = {point.name: point.value for point in metadata.entry_points(group="console_scripts")}
    assert scripts["refit"] == "agents.cli:main"
    assert (Path(sys.executable).parent / "refit").exists()


def test_the_version_is_the_same_everywhere() -> None:
    version = metadata.version("refit-env")
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.slow
def test_the_wheel_holds_both_packages_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"refit_env", "agents"}
    assert {"refit_env/py.typed", "agents/py.typed"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
