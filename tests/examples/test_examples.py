"""Tests of the examples."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import pretrain
from refit_env.backbones import make_backbone
from refit_env.data import load_dataset
from refit_env.policy import DiffusionPolicy

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses resolve their annotations in this module
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    folder = EXAMPLES.parent / "tests"
    tests = [Path(__file__), *(folder / "integrations").rglob("test_*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in tests)
    assert {p.stem for p in EXAMPLES.glob("*.py") if f'"{p.stem}")' not in text} == set()


def test_forty_lines(capsys: pytest.CaptureFixture[str]) -> None:
    before, after = load("forty_lines").main(iterations=3, batch=8, group=4, epochs=4)
    assert before != after and "test NDCG@20" in capsys.readouterr().out


@pytest.mark.slow
def test_forty_lines_improve_the_model() -> None:
    before, after = load("forty_lines").main()
    assert after > before


def test_own_reward() -> None:
    found = load("own_reward").main(iterations=4, epochs=4)
    assert set(found) == {"pretrained", "ndcg", "rare_hits"}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a policy that was pretrained on the embedded data set."""
    folder = tmp_path_factory.mktemp("pretrained")
    trained = pretrain(load_dataset("synthetic"), config=PretrainConfig(epochs=20), seed=0, device="cpu")
    DiffusionPolicy(trained.backbone, num_steps=4).save(folder)
    return folder


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cleanrl_style_is_reinforce_number_by_number(seed: int, pretrained: Path, tmp_path: Path) -> None:
    """Rewards, weights and metrics equal those of ``Reinforce`` with the preset ``score``."""
    config = replace(
        ReinforceConfig.preset("score"), iterations=5, users_per_batch=16, samples_per_user=8, eval_every=2
    )
    config = replace(config, share_first_step=False)  # matrix products of other shapes differ in the last bit
    agent = Reinforce(DiffusionPolicy.load(pretrained), "ReFiT-Synthetic-v0", config, seed=seed, device="cpu")
    before, history = agent.evaluate("test").means()["ndcg@20"], agent.learn().history
    example = load("cleanrl_reinforce")
    args = example.Args(
        seed=seed,
        checkpoint=pretrained,
        runs=tmp_path,
        iterations=5,
        users_per_batch=16,
        samples_per_user=8,
        eval_every=2,
    )
    result = example.main(args)
    # Threads add in another order: a pair of items whose scores are nearly equal may change places.
    rewards = [row["reward/mean"] for row in history if "reward/mean" in row]
    assert result.rewards == pytest.approx(rewards, abs=2e-3)
    after = agent.evaluate("test").means()["ndcg@20"]
    assert (result.before, result.after) == pytest.approx((before, after), abs=2e-3)
    for mine, its in zip(result.actor.network.parameters(), agent.policy.backbone.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0.0, atol=1e-5)
    (run,) = tmp_path.iterdir()
    assert any(path.name.startswith("events.out.tfevents") for path in run.iterdir())


def test_cleanrl_style_refuses_invalid_settings(pretrained: Path, tmp_path: Path) -> None:
    example = load("cleanrl_reinforce")
    args = example.Args(runs=tmp_path, checkpoint=pretrained)
    DiffusionPolicy(make_backbone("diffrec", 40, {"hidden": (8,)}), 4).save(tmp_path / "foreign")
    with pytest.raises(ValueError, match="ranks 40 items, ReFiT-Synthetic-v0 has 400"):
        example.main(replace(args, checkpoint=tmp_path / "foreign"))
    with pytest.raises(ValueError, match="samples_per_user=1 must be at least 2"):
        example.main(replace(args, samples_per_user=1))
    with pytest.raises(ValueError, match="has 800 users to draw from"):
        example.main(replace(args, users_per_batch=1000))


def test_cleanrl_style_is_one_short_file() -> None:
    assert len((EXAMPLES / "cleanrl_reinforce.py").read_text(encoding="utf-8").splitlines()) <= 250


@pytest.mark.slow
def test_cleanrl_style_improves_the_model(tmp_path: Path) -> None:
    example = load("cleanrl_reinforce")
    result = example.main(example.Args(runs=tmp_path, iterations=60))
    assert result.after > result.before + 0.02


def test_sb3_ppo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The example asserts equal actions of the saved model; validation never selects worse weights."""
    config = {"hidden": (8,), "num_steps": 4}
    DiffusionPolicy(make_backbone("diffrec", 400, config), 4).save(tmp_path / "run")
    found = load("sb3_ppo").main("ReFiT-Synthetic-v0", str(tmp_path / "run"), updates=2, num_envs=16)
    assert set(found) == {"before", "after", "last"} and found["last"] != found["before"]
    assert "validation NDCG@20: [" in capsys.readouterr().out


@pytest.mark.slow
def test_sb3_ppo_does_not_degrade_the_model() -> None:
    found = load("sb3_ppo").main()
    assert found["after"] >= found["before"]
