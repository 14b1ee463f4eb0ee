"""Algorithms by name: registered ones, and those in a user's files."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import register_algorithm
from agents.algorithms import registry
from agents.algorithms.registry import algorithm, algorithm_names, presets, settings_class
from agents.algorithms.reinforce import Reinforce
from agents.training.config import TrainerConfig
from agents.training.fine_tuner import FineTuner
from refit_env.utils.user_code import absolute_place, source_of

ROOT = Path(__file__).resolve().parents[3]
AGENT = """
from agents.algorithms.reinforce import Reinforce
class Agent(Reinforce):
    name = "mine"
class Abstract:
    pass
"""


@pytest.fixture
def own_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_REGISTERED", {})
    yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_registered_class_is_found_by_its_name(own_names: None) -> None:
    @register_algorithm("mine")
    class Mine(Reinforce):
        """As REINFORCE."""

    assert algorithm("mine") is Mine and Mine.name == "mine" and Reinforce.name == "reinforce"
    assert "mine" in algorithm_names() and settings_class("mine") is Reinforce.config_class
    assert sorted(presets("mine")) == ["default", "paper", "score"]
    with pytest.raises(ValueError, match=r"unknown algorithm 'mime'\. Did you mean 'mine'\?"):
        algorithm("mime")
    for taken in ("mine", "ppo"):
        with pytest.raises(ValueError, match=f"algorithm '{taken}' is registered already"):
            register_algorithm(taken)(type("Other", (Reinforce,), {}))


def test_what_is_no_algorithm_is_not_registered(own_names: None) -> None:
    with pytest.raises(ValueError, match=r"algorithm 'x' must be a subclass of .*FineTuner, found"):
        register_algorithm("x")(dict)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="algorithm 'x': class Idle must define update"):
        register_algorithm("x")(type("Idle", (FineTuner,), {}))
    with pytest.raises(ValueError, match="config_class must be a dataclass that is derived from"):
        register_algorithm("x")(type("Odd", (Reinforce,), {"config_class": dict}))
    with pytest.raises(ValueError, match="a name cannot hold ':'"):
        register_algorithm("a:b")
    assert "x" not in algorithm_names()


def test_a_class_in_a_file_or_a_module_is_found_by_its_place(folder: Path) -> None:
    (folder / "helper_of_mine.py").write_text("from agents.algorithms.reinforce import Reinforce as BASE\n")
    text = 'from helper_of_mine import BASE\nclass Agent(BASE):\n    name = "mine"\n'
    (folder / "my_agent.py").write_text(text)
    found = algorithm("my_agent.py:Agent")
    assert found.name == "mine" and issubclass(found, Reinforce)
    assert found is algorithm(str(folder / "my_agent.py") + ":Agent")  # one class, however it is named
    assert issubclass(settings_class("my_agent.py:Agent"), TrainerConfig)
    (folder / "package_of_mine").mkdir()
    (folder / "package_of_mine" / "agent.py").write_text(text)
    assert algorithm("package_of_mine.agent:Agent").name == "mine"
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert source_of("algorithm", "my_agent.py:Agent") == {
        "file": str(folder / "my_agent.py"),
        "sha256": digest,
    }
    assert (
        source_of("algorithm", "ppo") is None
        and absolute_place("my_agent.py:Agent") == f"{folder}/my_agent.py:Agent"
    )
    (folder / "my_agent.py").write_text(text.replace('"mine"', '"changed"'))
    assert algorithm("my_agent.py:Agent").name == "changed"  # another content is another class


def test_settings_of_a_file_reach_another_process(folder: Path) -> None:
    (folder / "my_agent.py").write_text(
        "from dataclasses import dataclass\n"
        "from agents.algorithms.reinforce import Reinforce\n"
        "from agents.training.config import TrainerConfig\n"
        "@dataclass(frozen=True)\nclass Settings(TrainerConfig):\n    margin: float = 0.0\n"
        "class Agent(Reinforce):\n    name = 'mine'\n    config_class = Settings\n"
    )
    settings = settings_class("my_agent.py:Agent")(margin=0.25, iterations=7)  # type: ignore[call-arg]
    code = "import pickle, sys; s = pickle.load(sys.stdin.buffer); print(s.margin, s.iterations)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(settings),
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.split() == [b"0.25", b"7"]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (None, "my_agent.py:Agent", "algorithm 'my_agent.py:Agent': there is no file my_agent.py"),
        (AGENT, "my_agent.py:Agnet", "my_agent.py has no class 'Agnet'. Did you mean 'Agent'?"),
        (AGENT, "my_agent.py:Abstract", "must be a subclass of agents.training.fine_tuner.FineTuner, found"),
        (AGENT, "no_such_module:Agent", "no_such_module cannot be imported: ModuleNotFoundError: No module"),
        (
            "x = 1\ny = 1 / 0\n",
            "my_agent.py:Agent",
            "cannot be imported, line 2: ZeroDivisionError: division",
        ),
        ("x = (\n", "my_agent.py:Agent", "cannot be imported, line 1: SyntaxError: '(' was never closed"),
        ("import sys\nsys.exit(3)\n", "my_agent.py:Agent", "cannot be imported, line 2: SystemExit: 3"),
        (
            "from agents.training.fine_tuner import FineTuner\nclass Agent(FineTuner):\n    pass\n",
            "my_agent.py:Agent",
            "class Agent must define update",
        ),
        (
            "from agents.training.fine_tuner import FineTuner\n"
            "class Agent(FineTuner):\n    name = 'a'\n    def update(self): ...\n",
            "my_agent.py:Agent",
            "update accepts (self), expected (self, users)",
        ),
        (
            "from agents.training.fine_tuner import FineTuner\n"
            "class Agent(FineTuner):\n    def update(self, users): ...\n",
            "my_agent.py:Agent",
            "class Agent must have a name, a text: name = 'my-agent'",
        ),
    ],
)
def test_a_place_without_an_algorithm_is_refused_in_one_line(
    text: str | None, place: str, message: str, folder: Path
) -> None:
    if text is not None:
        (folder / "my_agent.py").write_text(text)
    with pytest.raises(ValueError) as error:
        algorithm(place)
    assert message in str(error.value) and place in str(error.value) and "\n" not in str(error.value)
