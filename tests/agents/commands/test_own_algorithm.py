"""``refit finetune --algorithm my_agent.py:Imitation``: the agent of the how-to page, as pasted."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from agents.cli import main
from agents.runs.folder import RunFolder
from agents.training.fine_tuner import FineTuner

PAGE = Path(__file__).resolve().parents[3] / "docs" / "howto" / "own-algorithm.md"
OPTIONS = ["--users-per-batch", "16", "--eval-every", "2", "--iterations", "4", "--quiet", "--device", "cpu"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's agent as a file in the working folder."""
    found = re.search(r"```python\n(# my_agent\.py\n.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert found is not None
    path = tmp_path / "my_agent.py"
    path.write_text(found[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return path


def words(init: Path, *more: str, place: str = "my_agent.py:Imitation") -> list[str]:
    return ["finetune", "--algorithm", place, "--init", str(init), "--out", "run", *OPTIONS, *more]


def test_an_agent_of_ones_own_runs_and_its_file_is_recorded(pretrained: Path, file: Path) -> None:
    assert main(words(pretrained, "--margin", "0.01")) == 0
    config, digest = RunFolder("run").config, hashlib.sha256(file.read_bytes()).hexdigest()
    assert config["algorithm"] == f"{file}:Imitation" and config["agent"]["margin"] == 0.01
    assert config["algorithm_file"] == {"file": str(file), "sha256": digest}
    assert RunFolder("run").metrics["training"]["iterations"] == 4


def test_another_content_does_not_resume_the_run(
    pretrained: Path, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = FineTuner._step

    def stop(self: FineTuner) -> dict[str, float]:
        if self.iteration == 3:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuner, "_step", stop)
        assert main(words(pretrained)) == 130
    text = file.read_text()
    file.write_text(text + "# another content\n")
    assert main(["finetune", "--resume", "--out", "run", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert f"run was begun with the algorithm in {file} of sha256" in err and err.count("\n") <= 2
    file.write_text(text)
    assert main(["finetune", "--resume", "--out", "run", "--quiet"]) == 0


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("agent.py:Imitation", "algorithm 'agent.py:Imitation': there is no file agent.py"),
        ("my_agent.py:Imitaton", "my_agent.py has no class 'Imitaton'. Did you mean 'Imitation'?"),
        ("my_agent.py:ImitationConfig", "must be a subclass of agents.training.fine_tuner.FineTuner"),
        ("my_agent.py", "algorithm 'my_agent.py' is a file: add the name of the class or function in it"),
        ("imitation", "unknown algorithm 'imitation'"),
    ],
)
def test_mistakes(
    place: str, message: str, pretrained: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(pretrained, place=place)) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not Path("run").exists()
