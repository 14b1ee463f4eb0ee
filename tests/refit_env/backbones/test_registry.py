"""The registry of backbones, and a user's own backbone in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

import refit_env  # noqa: F401  # registers the ids
from refit_env.backbones import (
    backbone_class,
    backbone_for,
    backbone_names,
    make_backbone,
    published_config,
    register_backbone,
    registry,
    sized_config,
)
from refit_env.data import load_dataset
from refit_env.diffusion import Diffusion
from refit_env.errors import CheckpointError
from refit_env.policy import DiffusionPolicy
from tests.own_backbone import Tiny, TinyConfig, registry_restored


@pytest.fixture
def names() -> Iterator[None]:
    """Names that a test registers are gone after it."""
    with registry_restored():
        yield


@pytest.mark.usefixtures("names")
def test_a_registered_backbone_is_known_with_its_configuration() -> None:
    assert register_backbone("tiny")(Tiny) is Tiny and Tiny.name == "tiny"
    assert "tiny" in backbone_names() and backbone_class("tiny") is Tiny
    assert make_backbone("tiny", 20, {"hidden": 3}).config == TinyConfig(hidden=3)
    assert published_config("tiny", "ml-1m") == sized_config("tiny", "x", "small") == TinyConfig()
    data = load_dataset("synthetic")
    assert backbone_for(data, "tiny", {"num_steps": 3}, seed=0).config == TinyConfig(num_steps=3)
    with pytest.raises(ValueError, match="Did you mean 'tiny'"):
        make_backbone("tinny", 20)
    with pytest.raises(ValueError, match=r"hiden is no setting of backbone 'tiny'\. Did you mean 'hidden'"):
        make_backbone("tiny", 20, {"hiden": 3})
    with pytest.raises(ValueError, match=r"backbone 'tiny' is registered already \(Tiny\)"):
        register_backbone("tiny")(Tiny)


class Needs:
    """No dataclass."""


@dataclass(frozen=True)
class Missing:
    """A field without a default."""

    hidden: int

    def diffusion(self) -> Diffusion:
        raise AssertionError


@dataclass(frozen=True)
class Flat:
    """No schedule."""

    hidden: int = 3


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict, "must be a subclass of refit_env.backbones.Backbone"),
        (type("A", (Tiny,), {"config_class": Needs}), "config_class that is a dataclass"),
        (type("C", (Tiny,), {"predict_x0": lambda self, u: u}), r"predict_x0 accepts \(self, u\), expected"),
        (type("B", (Tiny,), {"config_class": Missing}), "needs a default for hidden"),
        (type("C", (Tiny,), {"config_class": Flat}), r"needs a method diffusion\(\)"),
    ],
)
def test_a_class_that_could_not_be_made_by_name_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        register_backbone("mine")(wrong)
    assert "mine" not in backbone_names()


@pytest.mark.usefixtures("names")
def test_an_environment_accepts_it_and_its_policy_is_saved_and_loaded(tmp_path: Path) -> None:
    register_backbone("tiny")(Tiny)
    data = load_dataset("synthetic")
    policy = DiffusionPolicy(backbone_for(data, "tiny", seed=0), num_steps=4).eval()
    env = gym.make("ReFiT-Synthetic-v0", backbone="tiny", num_steps=4)
    observation, _ = env.reset(seed=0)
    for _ in range(4):
        observation, reward, terminated, *_ = env.step(policy.act(observation))
    assert terminated and float(reward) >= 0
    with pytest.raises(ValueError, match=r"num_steps=6 must lie in 1\.\.5, the steps that 'tiny' has"):
        gym.make("ReFiT-Synthetic-v0", backbone="tiny", num_steps=6)
    policy.save(tmp_path, data)
    users = torch.arange(5)
    again = DiffusionPolicy.load(tmp_path)
    assert isinstance(again.backbone, Tiny)
    assert torch.equal(again.scorer(data)(users), policy.scorer(data)(users))
    del registry._BACKBONES["tiny"]
    with pytest.raises(CheckpointError, match=r"no backbone 'tiny' is registered\..* Import the module that"):
        DiffusionPolicy.load(tmp_path)


def test_every_backbone_has_a_configuration_for_any_data_set() -> None:
    for name, known in registry._BACKBONES.items():
        assert known.cls.name == name
        for data in ("ml-1m", "yelp2018", "mine"):
            assert isinstance(published_config(name, data), known.cls.config_class)
            config = sized_config(name, data, "small")
            assert replace(config) == config and isinstance(config, known.cls.config_class)
