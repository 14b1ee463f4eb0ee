"""The classes in rl-zoo3's configuration files exist, and accept what the zoo's search samples.

The zoo itself runs in an environment of its own: ``tests/integrations``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO, SAC

from agents.sb3 import GymVecEnv
from agents.sb3.zoo import ML1MPolicy, ML100KPolicy, SyntheticPolicy
from refit_env.policy import DiffusionPolicy
from refit_env.registration import entry

FOLDER = Path(__file__).resolve().parents[3] / "hyperparams"
ENVS = {
    "ReFiT-Synthetic-v0": SyntheticPolicy,
    "ReFiT-ML100K-v0": ML100KPolicy,
    "ReFiT-ML1M-v0": ML1MPolicy,
}
ALGORITHMS = {"ppo": PPO, "a2c": A2C, "trpo": TRPO, "sac": SAC}
ZOO = {"policy", "n_envs", "n_timesteps", "env_kwargs", "env_wrapper"}
"""Keys that the zoo itself uses."""


def read(path: Path) -> dict[str, dict[str, str]]:
    """Parse top-level settings by environment, as text; this subset of YAML is enough for these files."""
    found: dict[str, dict[str, str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"(\S+):", line):
            settings = found.setdefault(match[1], {})
        elif match := re.fullmatch(r"  (\w+): ?(.*)", line):
            settings[match[1]] = match[2]
    return found


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_file_has_each_environment_and_real_names(name: str) -> None:
    settings = read(FOLDER / f"{name}.yml")
    assert set(settings) == set(ENVS)
    known = set(inspect.signature(ALGORITHMS[name].__init__).parameters)
    for env_id, given in settings.items():
        assert set(given) - ZOO <= known, env_id
        assert float(given["gamma"]) == 1.0  # one reward, at the end
        if name != "sac":
            module, _, cls = given["policy"].rpartition(".")
            assert getattr(import_module(module), cls) is ENVS[env_id]
            assert int(given["n_steps"]) % entry(env_id).num_steps == 0  # whole episodes
            batch = int(given["n_steps"]) * int(given["n_envs"])
            assert batch % int(given.get("batch_size", batch)) == 0


def test_the_wrappers_of_sac_are_complete_and_in_order() -> None:
    text = (FOLDER / "sac.yml").read_text(encoding="utf-8")
    names = re.findall(r"- (refit_env\S+):", text)
    assert [name.rpartition(".")[2] for name in names[:3]] == [
        "ResidualAction",
        "LowRankAction",
        "FactorObservation",
    ]
    for name in names:
        module, _, cls = name.rpartition(".")
        assert isinstance(getattr(import_module(module), cls), type)
    for env_id in ENVS:
        assert f"policy: runs/zoo/{env_id}" in text


def test_a_zoo_policy_finds_its_run_and_accepts_the_samples(
    make_envs: Callable[..., GymVecEnv], make_policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"actor run 'runs/zoo/ReFiT-Synthetic-v0'.*refit pretrain"):
        PPO(SyntheticPolicy, make_envs(), n_steps=3, batch_size=12, device="cpu")
    make_policy().save(tmp_path / "runs" / "zoo" / "ReFiT-Synthetic-v0")
    sampled = {"net_arch": {"pi": [32], "vf": [24]}, "activation_fn": torch.nn.ReLU, "ortho_init": True}
    model = PPO(SyntheticPolicy, make_envs(), n_steps=3, batch_size=12, policy_kwargs=sampled, device="cpu")
    model.learn(12)
    assert model.policy.value_net.hidden.in_features == 24  # type: ignore[union-attr]
    assert isinstance(model.policy.value_net.activation, torch.nn.ReLU)  # type: ignore[union-attr]
    run = DiffusionPolicy.load(tmp_path / "runs" / "zoo" / "ReFiT-Synthetic-v0")
    fresh = PPO(SyntheticPolicy, make_envs(), n_steps=3, batch_size=12, device="cpu").policy.actor
    for name, value in run.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])  # type: ignore[operator, union-attr]
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", device="cpu")
    for name, value in model.policy.state_dict().items():
        assert torch.equal(value, loaded.policy.state_dict()[name])
