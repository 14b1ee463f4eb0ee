"""A batch in parts makes the update of the whole batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from agents.algorithms.configs import PPOConfig, ReinforceConfig
from agents.algorithms.ppo import PPO
from agents.algorithms.reinforce import Reinforce
from agents.training.pretrainer import Pretrainer
from agents.training.world import World
from refit_env.backbones import backbone_for
from refit_env.data import Dataset
from refit_env.errors import SettingError
from refit_env.policy import DiffusionPolicy

SMALL = ReinforceConfig(users_per_batch=12, samples_per_user=2, baseline="leave_one_out", iterations=3)


def make(data: Dataset, config: ReinforceConfig, start: str = "history") -> Reinforce:
    backbone = backbone_for(data, "diffrec", {"hidden": (16,), "num_steps": 5}, seed=0)
    kwargs = {"data": data, "backbone": "diffrec", "k": 5, "start": start}
    return Reinforce(DiffusionPolicy(backbone, 3), "ReFiT-Custom-v0", config, env_kwargs=kwargs, device="cpu")


@pytest.mark.parametrize("start", ["history", "diffused"])
@pytest.mark.parametrize("estimator", ["pathwise", "score", "rao_blackwell"])
@pytest.mark.parametrize("chunks", [2, 3])
def test_chunks_make_the_same_update(
    task_data: dict[str, Dataset], estimator: str, chunks: int, start: str
) -> None:
    config = replace(SMALL, estimator=estimator, kl_weight=0.1)
    whole = make(task_data["cf"], config, start)
    parts = make(task_data["cf"], replace(config, chunks=chunks), start)
    users = torch.as_tensor(whole.env.problem.users[:12])
    for _ in range(2):  # in the second one, the weights and the generators are those after the first
        expected, found = whole.update(users), parts.update(users)
        for name in ("reward/mean", "train/gradient_norm", "lists/coverage", "lists/gini"):
            assert found[name] == pytest.approx(expected[name], rel=1e-4), name
        for a, b in zip(whole.policy.parameters(), parts.policy.parameters(), strict=True):
            assert a.grad is not None and b.grad is not None
            assert torch.allclose(a.grad, b.grad, rtol=0, atol=1e-5 * float(a.grad.abs().max()))
    assert torch.equal(whole.noise_generator.get_state(), parts.noise_generator.get_state())


def test_what_cannot_be_divided_is_refused(task_data: dict[str, Dataset]) -> None:
    with pytest.raises(SettingError, match=r"users_per_batch must be a multiple of 5, .* found 12"):
        make(task_data["cf"], replace(SMALL, chunks=5))
    with pytest.raises(
        SettingError, match=r"baseline must be of a user's own episodes .*'none'.* found 'batch'"
    ):
        make(task_data["cf"], replace(SMALL, estimator="score", baseline="batch", chunks=2))


def test_algorithms_that_need_the_whole_batch_refuse_several_processes(
    task_data: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Two(World):
        size = 2

    monkeypatch.setattr("agents.training.agent_state.world_of", lambda device: Two())
    policy = DiffusionPolicy(backbone_for(task_data["cf"], "diffrec", {"hidden": (4,), "num_steps": 2}), 2)
    with pytest.raises(ValueError, match="algorithm 'ppo' trains in one process; 'reinforce' in several"):
        PPO(policy, "ReFiT-Custom-v0", PPOConfig(), env_kwargs={"data": task_data["cf"]}, device="cpu")


def test_a_batch_that_does_not_fit_says_by_how_much(
    task_data: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = task_data["cf"].num_items
    weights = sum(weight.numel() for weight in make(task_data["cf"], SMALL).policy.parameters())
    free = 12 * items * 4 * 14 + 16 * weights
    monkeypatch.setattr("refit_env.utils.memory.free_memory", lambda device: free)
    message = (
        r"a batch of 24 episodes \(--chunks divides it\) needs .* of memory; .* are free, "
        rf"{12 * items * 4 * 14} bytes too few"
    )
    with pytest.raises(ValueError, match=message):
        make(task_data["cf"], SMALL)
    assert make(task_data["cf"], replace(SMALL, chunks=2)).env.num_envs == 12
    free = 0
    backbone = backbone_for(task_data["cf"], "diffrec", {"hidden": (16,)}, seed=0)
    with pytest.raises(
        ValueError, match=r"a batch of \d+ rows of \d+ numbers \(--users-per-batch\) needs .* too few"
    ):
        Pretrainer(task_data["cf"], backbone, device="cpu")
