"""Tests of the number format of products: what it changes, what stays float32, and where it is refused."""

from __future__ import annotations

import pytest
import torch

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.training import precision
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer
from refit_env.backbones import backbone_for
from refit_env.data import Dataset
from refit_env.errors import SettingError
from refit_env.policy import DiffusionPolicy

DIFFREC = {"hidden": (16,), "num_steps": 5}


@pytest.fixture
def policy(task_data: dict[str, Dataset]) -> DiffusionPolicy:
    return DiffusionPolicy(backbone_for(task_data["cf"], "diffrec", DIFFREC, seed=0), 2).eval()


def test_means_are_float32_and_near_those_of_float32_products(policy: DiffusionPolicy) -> None:
    u = torch.rand(8, policy.backbone.dim)
    exact = policy.mean(u, 0)
    with precision.policies_in("bf16", policy):
        rounded = policy.mean(u, 0)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert torch.allclose(rounded, exact, atol=0.03)
    assert torch.equal(policy.mean(u, 0), exact)


def test_a_device_without_bf16_refuses_it(
    policy: DiffusionPolicy, task_data: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda device: False)
    message = "must be 'fp32' on this device .cpu., found 'bf16', which needs a CPU with AVX512-BF16 or AMX"
    with pytest.raises(SettingError, match=message):
        Reinforce(
            policy,
            "ReFiT-Custom-v0",
            ReinforceConfig(precision="bf16"),
            env_kwargs={"data": task_data["cf"]},
            device="cpu",
        )
    with pytest.raises(SettingError, match=message):
        Pretrainer(task_data["cf"], policy.backbone, PretrainConfig(precision="bf16"), device="cpu")


def test_training_in_bf16_moves_weights_that_stay_float32(
    policy: DiffusionPolicy, task_data: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda device: True)  # slow where it is emulated
    data = task_data["cf"]
    seen: list[torch.dtype] = []
    hook = policy.backbone.output_layer.register_forward_hook(lambda m, x, out: seen.append(out.dtype))
    Pretrainer(data, policy.backbone, PretrainConfig(precision="bf16", epochs=1), device="cpu").learn()
    assert torch.bfloat16 in seen
    seen.clear()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    config = ReinforceConfig(precision="bf16", iterations=2, eval_every=2, users_per_batch=8)
    agent = Reinforce(policy, "ReFiT-Custom-v0", config, env_kwargs={"data": data}, device="cpu")
    agent._step()
    hook.remove()
    assert set(seen) == {torch.bfloat16}
    now = policy.state_dict()
    assert any(not torch.equal(now[name], before[name]) for name in before)
    assert {value.dtype for value in now.values()} == {value.dtype for value in before.values()}
