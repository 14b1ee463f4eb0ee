from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.parsing import parsed

ROOT = Path(__file__).resolve().parents[1]
IMPORT_NAMES = {
    "pyyaml": "yaml",
    "sparse-dot-topn": "sparse_dot_topn",
    "stable-baselines3": "stable_baselines3",
}
INTEGRATIONS = ("ray", "rllib", "torchrl", "zoo")
OPTIONAL = {
    "psutil": "Windows only: sparse-dot-topn brings it",
    "accelerate": "extra `distributed`",
    "faiss": "extra `neighbors`",
    "moviepy": "extra `video`",
    "optuna": "extra `tune`",
    "ray": "extra `ray`",
    "sb3_contrib": "extra `zoo`",
    **dict.fromkeys(
        ("fastapi", "h11", "prometheus_client", "pydantic", "starlette", "uvicorn"), "extra `serve`"
    ),
}


def project() -> dict[str, Any]:
    """Return the table ``project`` of pyproject.toml, because the installed metadata may be older."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def declared(extra: str | None = None) -> dict[str, Requirement]:
    """Return the requirements of the package or of an extra, with nested extras expanded."""
    lines = project()["dependencies"] if extra is None else project()["optional-dependencies"][extra]
    found: dict[str, Requirement] = {}
    for requirement in map(Requirement, lines):
        if requirement.name == project()["name"]:
            for inner in requirement.extras:
                found |= declared(inner)
        else:
            found[requirement.name] = requirement
    return found


def pinned(file: str = "constraints.txt") -> dict[str, str]:
    pins = {}
    for line in (ROOT / file).read_text().splitlines():
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
    for node in ast.walk(parsed(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return {name.split(".")[0] for name in found}


def test_every_direct_dependency_is_pinned_inside_its_range() -> None:
    pins = pinned()
    for requirement in (declared() | declared("dev")).values():
        assert normal(requirement.name) in pins, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pins[normal(requirement.name)]), requirement
    assert pins["torch"] == "2.13.0"


@pytest.mark.parametrize("extra", INTEGRATIONS)
def test_an_integration_is_pinned_beside_the_rest(extra: str) -> None:
    own, rest = pinned(f"constraints-{extra}.txt"), pinned()
    for requirement in declared(extra).values():
        pin = (rest | own)[normal(requirement.name)]
        assert requirement.specifier.contains(pin), requirement
        if normal(requirement.name) not in rest:
            assert normal(requirement.name) in own, f"{requirement.name} is not in constraints-{extra}.txt"
    for name, requirement in declared().items():  # a replaced pin is inside the package's range
        assert requirement.specifier.contains((rest | own)[normal(name)]), requirement
    assert {name for name in own if rest.get(name) == own[name]} == set(), "pinned there and here alike"


def test_constraints_are_exact() -> None:
    for path in ROOT.glob("constraints*.txt"):
        for line in path.read_text().splitlines():
            if line and not line.startswith("#"):
                assert re.fullmatch(r"[A-Za-z0-9_.-]+==[^=*]+( ?; ?python_version .*)?", line), (
                    path.name,
                    line,
                )


def test_make_gives_each_integration_its_own_pins(tmp_path: Path) -> None:
    """Merge as the Makefile does: one pin per package, the integration's where it has one."""
    makefile = (ROOT / "Makefile").read_text()
    assert f"INTEGRATIONS := {' '.join(INTEGRATIONS)}" in makefile
    assert {p.stem for p in ROOT.glob("constraints-*.txt")} == {
        f"constraints-{name}" for name in INTEGRATIONS
    }
    program = re.search(r"awk -F '==' '(.*)'", makefile)
    assert program is not None
    for extra in INTEGRATIONS:
        command = ["awk", "-F", "==", program[1].replace("$$", "$")]
        command += [f"constraints-{extra}.txt", "constraints.txt"]
        merged = tmp_path / "merged.txt"
        merged.write_text(
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        )
        assert pinned(str(merged)) == pinned() | pinned(f"constraints-{extra}.txt")
        names = [re.split("==", line)[0] + line.partition(";")[2] for line in merged.read_text().splitlines()]
        assert len({normal(n) for n in names if n[0] != "#"}) == len([n for n in names if n[0] != "#"])


def test_what_is_imported_is_declared() -> None:
    known = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in declared()}
    known |= set(sys.stdlib_module_names) | {"refit_env", "agents"} | set(OPTIONAL)
    for path in sources("refit_env", "agents"):
        assert imports(path) <= known, f"{path.relative_to(ROOT)} imports {imports(path) - known}"


def test_what_is_declared_is_imported() -> None:
    used = set().union(*(imports(path) for path in sources("refit_env", "agents")))
    names = {IMPORT_NAMES.get(name, name.replace("-", "_")): name for name in declared()}
    promised = {
        "stable_baselines3": "requested by users of the environments, used by agents/sb3",
        "tensorboard": "used through torch.utils.tensorboard",
    }
    assert {name for name in names if name not in used} <= set(promised)


def test_the_library_does_not_import_the_agents() -> None:
    for path in sources("refit_env"):
        assert "agents" not in imports(path), path
        assert "stable_baselines3" not in imports(path), path
    for path in sources("agents"):
        if "sb3" not in path.relative_to(ROOT).parts:
            assert "stable_baselines3" not in imports(path), path


def test_only_the_merge_check_names_a_data_folder_beside_the_checkout() -> None:
    """Tests read ``REFIT_DATA_HOME``, so a clone gives the same result in any folder."""
    folder = "/".join(("shared", "data"))
    files = sources("refit_env", "agents", "tests", "benchmarks", "examples", "docs")
    files += [ROOT / "Makefile", ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert [path for path in files if folder in path.read_text(encoding="utf-8")] == []
    assert f"-d ../{folder}" in (ROOT / ".ci" / "run").read_text()


def test_no_file_is_unpickled() -> None:
    for path in sources("refit_env", "agents"):
        text = path.read_text(encoding="utf-8")
        if path == ROOT / "refit_env" / "backbones" / "importing.py":  # tensors alone, of a checked file
            text = text.replace('torch.load(path, map_location="cpu", weights_only=True)', "", 1)
        assert "torch.load(" not in text and "pickle.load" not in text, path


def test_the_console_script_is_installed() -> None:
    scripts = {point.name: point.value for point in metadata.entry_points(group="console_scripts")}
    assert scripts["refit"] == "agents.cli:main"
    assert (Path(sys.executable).parent / "refit").exists()


def test_the_version_is_the_same_everywhere() -> None:
    version = project()["version"]
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    sections = re.findall(r"^## \[(.+)\]", changes, re.M)
    assert sections[:2] == ["Unreleased", version]


def test_the_lowest_python_is_the_same_everywhere() -> None:
    lowest = project()["requires-python"].removeprefix(">=")
    minor = lowest.split(".")[1]
    listed = re.findall(r"Python :: (3\.\d+)", "\n".join(project()["classifiers"]))
    assert min(listed, key=lambda v: int(v.split(".")[1])) == lowest
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert settings["ruff"]["target-version"] == f"py3{minor}"
    assert f"sys.version_info < (3, {minor})" in (ROOT / "Makefile").read_text()
    for file in ("README.md", "Makefile", ".ci/run"):
        assert set(re.findall(r"Python >= ([\d.]+\d)", (ROOT / file).read_text())) == {lowest}, file


def test_every_module_is_imported_where_vector_wrappers_are_not_generic() -> None:
    """Gymnasium before 1.4 has such wrappers. A new process is used, because this one keeps its classes."""
    program = """
import importlib, inspect, pkgutil
import gymnasium.vector as vector

plain = {}
for name, wrapper in inspect.getmembers(vector, inspect.isclass):
    if issubclass(wrapper, vector.VectorWrapper):
        plain[name] = type(name, (wrapper,), {})
for name, wrapper in plain.items():
    setattr(vector, name, wrapper)
try:
    vector.VectorWrapper[int, int, int, int, int]
except TypeError:
    for package in map(importlib.import_module, ("refit_env", "agents")):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
    from refit_env.envs.wrappers.vector import GroupedUsers
    print(issubclass(GroupedUsers, plain["VectorWrapper"]))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


CLEAN = """
import gymnasium as gym
import refit_env
from agents import Reinforce, ReinforceConfig

policy = refit_env.load_policy("ReFiT-Synthetic-v0")
env = gym.make("ReFiT-Synthetic-v0", backbone="linear")
observation, _ = env.reset(seed=0)
env.step(policy.act(observation))
agent = Reinforce(policy, "ReFiT-Synthetic-v0", ReinforceConfig(iterations=1, eval_every=1))
print(agent.learn().best_iteration in (0, 1))
"""


@pytest.mark.slow
@pytest.mark.skipif("REFIT_WHEEL" not in os.environ, reason="installs all dependencies: make test-wheel")
def test_the_wheel_works_in_a_clean_environment(tmp_path: Path) -> None:
    """Sdist, wheel from the sdist, an environment of its own with the pinned dependencies, away from here."""
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"), str(ROOT)], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    data = [
        path.relative_to(ROOT).as_posix()
        for package in ("refit_env", "agents")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    assert "refit_env/data/measured.json" in data
    assert set(data) <= set(names), "data files that the wheel lacks"
    venv.create(tmp_path / "venv", with_pip=True)
    bin_folder = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str) -> str:
        words = [str(bin_folder / command[0]), *command[1:]]
        done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    run("python", "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel))
    assert run("refit", "--version").strip() == f"refit-env {project()['version']}"
    assert "usage: refit demo" in run("refit", "demo", "--help")
    assert "synthetic" in run("refit", "data", "list")
    where = run("python", "-c", "import agents, refit_env; print(refit_env.__file__, agents.__file__)")
    assert where.count(str(tmp_path)) == 2
    assert run("python", "-c", CLEAN).strip() == "True"


@pytest.mark.slow
def test_the_wheel_holds_both_packages_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"refit_env", "agents"}
    assert {"refit_env/py.typed", "agents/py.typed"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
