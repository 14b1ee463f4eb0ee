"""Every backbone is pretrained, fine-tuned and distilled on the device passed, and ranks alike on all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from agents.algorithms.configs import DistillConfig, ReinforceConfig
from agents.algorithms.registry import algorithm
from agents.training.fine_tuner import FineTuner
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer, pretrain
from refit_env.backbones import backbone_class, backbone_for, backbone_names
from refit_env.data import Dataset
from refit_env.policy import DiffusionPolicy

DIFFREC = {"hidden": (16,), "num_steps": 5}
TRAINED_SCORES = ("dreamrec", "recdiff", "diff-poi")
"""Backbones of which fine-tuning can train the item embeddings, too."""
MODELLED = {"reward": {"ease": 0.5, "ndcg": 0.5}, "reward_kwargs": {"l2": 20.0}}


@pytest.fixture(
    scope="module",
    params=[
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
    ],
)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=backbone_names())
def start(
    request: pytest.FixtureRequest,
    device: str,
    task_data: dict[str, Dataset],
    small_configs: dict[str, dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Dataset, Path]:
    """A backbone's name, its data, and the folder with what training on the device left."""
    name: str = request.param
    data, folder = task_data[backbone_class(name).tasks[0]], tmp_path_factory.mktemp(name)
    settings = PretrainConfig(epochs=2, users_per_batch=64, eval_every=1, eval_steps=2, learning_rate=3e-3)
    result = pretrain(
        data, backbone_for(data, name, small_configs[name], seed=0), settings, seed=0, device=device
    )
    DiffusionPolicy(result.backbone, 2).to(device).save(folder, data)
    return name, data, folder


def agent_of(
    start: tuple[str, Dataset, Path], device: str, name: str, config: Any, goal: dict[str, Any]
) -> FineTuner:
    backbone, data, folder = start
    kwargs = {"data": data, "backbone": backbone, "k": 5, "checkpoint": str(folder)} | goal
    if not DiffusionPolicy.load(folder).backbone.embedding:
        del kwargs["checkpoint"]
    policy = DiffusionPolicy.load(folder, device)
    agent: FineTuner = algorithm(name)(
        policy, "ReFiT-Custom-v0", config, env_kwargs=kwargs, seed=0, device=device
    )
    return agent


def check(agent: FineTuner, device: str) -> None:
    """Two updates move the weights, which stay where they are."""
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    moved: list[bool] = []

    def note(agent: FineTuner, scalars: dict[str, float]) -> None:
        now = agent.policy.state_dict()
        moved.append(any(not torch.equal(value, now[name]) for name, value in before.items()))

    result = agent.learn(callback=note)
    assert moved == [True, True]
    assert len(result.history) == 3 and not result.interrupted
    assert all(p.device.type == device for p in agent.policy.parameters())
    after = [p for group in agent.optimizer.param_groups for p in group["params"]]
    assert all(bool(p.isfinite().all()) for p in after)
    assert before.keys() == agent.policy.state_dict().keys()
    assert 0 <= agent.evaluate("test").means()["ndcg@20"] <= 1


def test_the_scores_are_those_of_the_cpu(start: tuple[str, Dataset, Path], device: str) -> None:
    _, data, folder = start
    users = torch.arange(8)
    here = DiffusionPolicy.load(folder).scorer(data)(users)
    there = DiffusionPolicy.load(folder, device).scorer(data)(users.to(device))
    assert there.device.type == device
    assert torch.allclose(there.cpu(), here, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("estimator", ["score", "pathwise"])
def test_reinforce(start: tuple[str, Dataset, Path], device: str, estimator: str) -> None:
    if start[0] == "hdrm" and estimator != "score":
        pytest.skip("HDRM ranks by distances: 'score' alone knows them")
    config = ReinforceConfig(
        users_per_batch=8,
        samples_per_user=4,
        iterations=2,
        eval_every=1,
        exploration_std=0.5,  # small networks: less exploration changes no list
        estimator=estimator,
        blends=1,
    )
    check(agent_of(start, device, "reinforce", config, {"reward": "ndcg"}), device)


def test_reinforce_with_a_model_as_the_reward(start: tuple[str, Dataset, Path], device: str) -> None:
    rate = 1e-3 if start[0] in TRAINED_SCORES else 0.0
    estimator = "score" if start[0] == "hdrm" else "pathwise"
    config = ReinforceConfig(
        users_per_batch=8,
        iterations=2,
        eval_every=1,
        scores_learning_rate=rate,
        anneal_lr=True,
        estimator=estimator,
    )
    check(agent_of(start, device, "reinforce", config, MODELLED), device)


def test_distillation(start: tuple[str, Dataset, Path], device: str) -> None:
    config = DistillConfig(users_per_batch=8, iterations=2, eval_every=1)
    check(agent_of(start, device, "distill", config, MODELLED), device)


@pytest.mark.parametrize("name", ["ppo", "grpo", "rwr", "es", "dpo"])
def test_other_algorithms(device: str, task_data: dict[str, Dataset], tmp_path: Path, name: str) -> None:
    data = task_data["cf"]
    backbone = backbone_for(data, "diffrec", DIFFREC, seed=0)
    DiffusionPolicy(backbone, 2).save(tmp_path, data)
    config = algorithm(name).config_class(users_per_batch=8, samples_per_user=4, iterations=2, eval_every=1)
    check(agent_of(("diffrec", data, tmp_path), device, name, config, {"reward": "ndcg"}), device)


def test_the_estimator_that_needs_scores(device: str, task_data: dict[str, Dataset], tmp_path: Path) -> None:
    backbone = backbone_for(task_data["cf"], "diffrec", DIFFREC, seed=0)
    DiffusionPolicy(backbone, 2).save(tmp_path)
    config = ReinforceConfig(users_per_batch=8, iterations=2, eval_every=1, estimator="rao_blackwell")
    start = ("diffrec", task_data["cf"], tmp_path)
    check(agent_of(start, device, "reinforce", config, {"reward": "ndcg"}), device)


def test_training_goes_on_where_it_was(device: str, task_data: dict[str, Dataset], tmp_path: Path) -> None:
    data, settings = task_data["cf"], PretrainConfig(epochs=2, users_per_batch=16, eval_every=1)

    def trainer() -> Pretrainer:
        backbone = backbone_for(data, "diffrec", DIFFREC, seed=0)
        return Pretrainer(data, backbone, settings, seed=0, device=device)

    whole = trainer().learn()

    def stop(epoch: int, scalars: dict[str, float]) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    assert trainer().learn(tmp_path, stop).interrupted
    resumed = trainer().load(tmp_path).learn()
    for a, b in zip(whole.backbone.parameters(), resumed.backbone.parameters(), strict=True):
        assert a.device.type == device and torch.allclose(a, b, atol=1e-6)
