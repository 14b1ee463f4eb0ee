"""A user's own backbone by its registered name: pretrained, fine-tuned, saved and loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from agents import Reinforce, ReinforceConfig
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import pretrain
from refit_env.backbones import register_backbone
from refit_env.data import Dataset, save_dataset
from refit_env.policy import DiffusionPolicy
from tests.own_backbone import Tiny, registry_restored


@pytest.fixture
def registered() -> Iterator[None]:
    with registry_restored():
        register_backbone("tiny")(Tiny)
        yield


@pytest.mark.usefixtures("registered")
def test_from_pretraining_to_a_loaded_agent(small_data: Dataset, tmp_path: Path) -> None:
    save_dataset(small_data, tmp_path / "data")
    result = pretrain(small_data, "tiny", PretrainConfig(epochs=2, eval_every=1), device="cpu")
    assert isinstance(result.backbone, Tiny)
    policy = DiffusionPolicy(result.backbone, num_steps=2)
    agent = Reinforce(
        policy,
        "ReFiT-Custom-v0",
        ReinforceConfig(iterations=2, eval_every=1, users_per_batch=16),
        env_kwargs={"data": str(tmp_path / "data"), "k": 5},
        device="cpu",
    )
    assert agent.env.problem.config.backbone == "tiny"
    agent.learn()
    agent.policy.save(tmp_path / "run", small_data)
    again = DiffusionPolicy.load(tmp_path / "run")
    assert isinstance(again.backbone, Tiny) and again.num_steps == 2
    users = torch.arange(6)
    assert torch.equal(again.scorer(small_data)(users), agent.policy.scorer(small_data)(users))
    assert agent.iteration == 2
