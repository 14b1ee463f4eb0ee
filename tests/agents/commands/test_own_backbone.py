"""``--backbone my_backbone.py:Tiny``: one's own backbone in one file, on the command line and in Python."""

from __future__ import annotations

import hashlib
import signal
from pathlib import Path

import gymnasium as gym
import pytest
import torch

from agents.cli import main
from agents.runs.folder import RunFolder
from agents.training.pretrainer import Pretrainer
from refit_env.backbones import backbone_class, register_backbone
from refit_env.backbones.diffrec import DiffRec
from refit_env.data import load_dataset
from refit_env.errors import CheckpointError
from refit_env.policy import DiffusionPolicy
from tests import own_backbone
from tests.own_backbone import registry_restored

TEXT = (
    Path(own_backbone.__file__).read_text()
    + """
from refit_env.backbones.diffrec import DiffRec

class Half(Backbone):
    def predict_x0(self, u, timestep, condition=None):
        return u

number = 3
"""
)
SMALL = ["--epochs", "2", "--eval-every", "1", "--quiet", "--device", "cpu"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "my_backbone.py"
    path.write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return path


def words(backbone: str, *more: str) -> list[str]:
    run = ["--env", "ReFiT-Synthetic-v0", "--backbone", backbone, "--out", "run"]
    return ["pretrain", *run, *SMALL, *more]


def test_it_is_pretrained_recorded_fine_tuned_and_recommends(file: Path) -> None:
    assert main(words("my_backbone.py:Tiny", "--backbone-options", "hidden=4")) == 0
    place, digest = f"{file}:Tiny", hashlib.sha256(file.read_bytes()).hexdigest()
    config = RunFolder("run").config
    assert config["backbone"] == {"name": place, "hidden": 4}
    assert config["backbone_file"] == {"file": str(file), "sha256": digest}
    tuned = ["finetune", "--init", "run", "--reward", "ndcg", "--out", "rl", "--iterations", "2"]
    assert main([*tuned, "--users-per-batch", "8", "--quiet", "--device", "cpu"]) == 0
    assert main(["evaluate", "--run", "rl", "--json"]) == 0
    assert main(["recommend", "--run", "rl", "--user", "3"]) == 0
    policy = DiffusionPolicy.load("rl")
    assert policy.backbone.name == place and policy.backbone.config.hidden == 4


def test_an_environment_accepts_the_place_as_it_was_typed(file: Path) -> None:
    assert main(words("my_backbone.py:Tiny")) == 0
    policy = DiffusionPolicy.load("run")
    env = gym.make("ReFiT-Synthetic-v0", backbone="my_backbone.py:Tiny", num_steps=policy.num_steps)
    observation, _ = env.reset(seed=0)
    assert policy.act(observation).shape == (400,)
    assert env.unwrapped.problem.config.backbone == policy.backbone.name  # type: ignore[attr-defined]


def test_another_content_is_not_run_and_the_former_one_is(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words("my_backbone.py:Tiny")) == 0
    before = DiffusionPolicy.load("run").scorer(load_dataset("synthetic"))(torch.arange(3))
    was = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_text(TEXT + "open('ran.txt', 'w').close()\n")
    assert main(["evaluate", "--run", "run"]) == 2
    err, now = capsys.readouterr().err, hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"was trained with {file} of sha256 {was[:12]}, which is {now[:12]} now" in err
    assert len(err.splitlines()) == 1 and not Path("ran.txt").exists()
    file.unlink()
    with pytest.raises(CheckpointError, match=r"there is no file .*put the file back"):
        DiffusionPolicy.load("run")
    file.write_text(TEXT)
    after = DiffusionPolicy.load("run").scorer(load_dataset("synthetic"))(torch.arange(3))
    assert torch.equal(before, after)


def test_an_interrupted_run_goes_on_with_the_same_file_alone(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Pretrainer._step

    def press(self: Pretrainer) -> dict[str, float]:
        if self.epoch == 0:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Pretrainer, "_step", press)
        assert main(words("my_backbone.py:Tiny")) == 130
    capsys.readouterr()
    resume = ["pretrain", "--resume", "--out", "run", "--quiet", "--device", "cpu"]
    file.write_text(TEXT + "open('ran.txt', 'w').close()\n")
    assert main(resume) == 2 and not Path("ran.txt").exists()
    assert "run was begun with the backbone in" in capsys.readouterr().err
    file.write_text(TEXT)
    assert main(resume) == 0
    assert "run names the backbone in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_backbone.py", "is a file: add the name of the class or function in it, my_backbone.py:NAME"),
        ("my_backbone.py:Tin", "my_backbone.py has no class 'Tin'. Did you mean 'Tiny'?"),
        ("my_backbone.py:number", "must be a subclass of refit_env.backbones.Backbone, got 3"),
        ("my_backbone.py:Half", "must define elbo_loss"),
        ("other.py:Tiny", "there is no file other.py"),
        ("no.module:Tiny", "no.module cannot be imported: ModuleNotFoundError"),
    ],
)
@pytest.mark.usefixtures("file")
def test_what_is_no_backbone_is_one_line(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(name)) == 2
    err = capsys.readouterr().err
    assert f"backbone {name!r}" in err and message in err and len(err.splitlines()) == 1
    assert not Path("run").exists()


def test_a_class_of_this_package_keeps_its_name_and_a_registered_one_may_change(file: Path) -> None:
    assert backbone_class("my_backbone.py:DiffRec") is DiffRec and DiffRec.name == "diffrec"
    with registry_restored():
        decorated = TEXT.replace(
            "class Tiny(",
            "from refit_env.backbones import register_backbone\n\n\n@register_backbone('own')\nclass Tiny(",
        )
        for more in ("", "\n"):
            file.write_text(decorated + more)
            assert backbone_class("my_backbone.py:Tiny") is backbone_class("own")
        with pytest.raises(ValueError, match="a name cannot hold ':'"):
            register_backbone("a:b")
