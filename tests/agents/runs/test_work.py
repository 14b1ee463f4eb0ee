"""The work of training: counted where rows really pass, the same in every run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.algorithms.configs import ESConfig, PPOConfig, ReinforceConfig
from agents.algorithms.es import EvolutionStrategy
from agents.algorithms.ppo import PPO
from agents.algorithms.reinforce import Reinforce
from agents.runs.work import Work, counted, work_in
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer
from refit_env.backbones import backbone_for, make_backbone
from refit_env.data import Dataset, synthesize_checkins, synthesize_sessions, synthesize_social
from refit_env.policy import DiffusionPolicy

STEPS, USERS = 4, 6


def policy_for(data: Dataset) -> DiffusionPolicy:
    backbone = make_backbone("diffrec", data.num_items, {"hidden": (8,), "num_steps": 5})
    return DiffusionPolicy(backbone, STEPS)


def tuned(kind: Any, data: Dataset, config: Any) -> Any:
    kwargs = {"reward": "ndcg", "relevance": "recent", "data": data}
    return kind(policy_for(data), "ReFiT-Custom-v0", config, env_kwargs=kwargs, device="cpu")


def test_an_episode_counts_its_steps_forward_and_backward(small_data: Dataset) -> None:
    config = ReinforceConfig(users_per_batch=USERS, iterations=2, eval_every=1)
    for recompute, forward in ((False, 1), (True, 2)):  # what is computed again is counted again
        result = tuned(Reinforce, small_data, replace(config, recompute=recompute)).learn()
        rows = 2 * USERS * STEPS
        assert result.work == Work(forward * rows, rows)
    assert Work(rows, rows).units == rows  # the three validations are not counted


def test_a_gradient_at_two_of_four_steps_is_half_the_backward_passes(small_data: Dataset) -> None:
    config = ReinforceConfig(
        users_per_batch=USERS, iterations=1, eval_every=1, estimator="score", samples_per_user=2,
        train_steps="last:2", share_first_step=False,
    )  # fmt: skip
    assert tuned(Reinforce, small_data, config).learn().work == Work(2 * USERS * STEPS, 2 * USERS * 2)


def test_passes_over_a_batch_and_gradient_free_search(small_data: Dataset) -> None:
    ppo = PPOConfig(
        users_per_batch=USERS, samples_per_user=2, iterations=1, epochs=3, minibatches=2, credit="episode",
        train_steps="all",
    )  # fmt: skip
    work = tuned(PPO, small_data, ppo).learn().work
    rows = USERS * (1 + 2 * (STEPS - 1))  # a user's two episodes share their first mean
    assert work == Work((1 + 3) * rows, 3 * rows)
    es = ESConfig(users_per_batch=USERS, samples_per_user=4, iterations=1, rank=2)
    work = tuned(EvolutionStrategy, small_data, es).learn().work
    assert work.backward == 0 and work.forward > 0 and work.units == work.forward / 3


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("diffrec", 1), ("l-diffrec", 1), ("t-diffrec", 1), ("cf-diff", 1), ("recdiff", 1),
        ("hdrm", 2), ("dreamrec", 1), ("causal-dreamrec", 1), ("diff-poi", None),
    ],
)  # fmt: skip
def test_every_backbone_s_loss_is_counted(name: str, rows: int | None, small_data: Dataset) -> None:
    data: Dataset = small_data
    if name == "dreamrec":
        data = synthesize_sessions(num_sessions=60, num_items=40)
    elif name == "recdiff":
        data = synthesize_social(num_users=60, num_items=40)
    elif name == "diff-poi":
        data = synthesize_checkins(num_users=24, num_items=40)
    options = {"tokens": 4, "width": 4, "heads": 1} if name == "cf-diff" else None
    backbone: Any = backbone_for(data, name, options, seed=0)
    trainer = Pretrainer(data, backbone, device="cpu")
    each = backbone._chain.num_steps + 1 if rows is None else rows  # the whole chain, and the denoising loss
    with counted(backbone) as work:
        trainer._update(trainer.examples.ids[:5])
    assert work == Work(5 * each, 5 * each)


def test_a_budget_ends_training_at_the_update_that_reaches_it(small_data: Dataset, tmp_path: Path) -> None:
    def trainer(budget: float) -> Pretrainer:
        config = PretrainConfig(epochs=10_000, users_per_batch=8, patience=0, eval_every=3, max_work=budget)
        backbone = make_backbone("diffrec", small_data.num_items, {"hidden": (8,), "num_steps": 5})
        return Pretrainer(small_data, backbone, config, device="cpu")

    users = trainer(0.0).examples.ids.numel()
    budget = 4 * users + 20  # within the fifth epoch
    whole = trainer(float(budget)).learn(tmp_path)
    assert budget <= whole.work.units < budget + 8
    assert whole.history[-1]["epoch"] == 5.0 and "valid/recall@20" in whole.history[-1]
    again = trainer(float(budget)).load(tmp_path).learn()
    assert again.work == whole.work and again.history == whole.history  # nothing is left to be done
    assert work_in(whole.history) == whole.work


def test_a_resumed_fine_tuning_counts_all_of_its_work(small_data: Dataset, tmp_path: Path) -> None:
    config = ReinforceConfig(users_per_batch=USERS, iterations=3, eval_every=1)

    def stop(agent: Any, scalars: dict[str, float]) -> None:
        if agent.iteration == 2:
            raise KeyboardInterrupt

    first = tuned(Reinforce, small_data, config).learn(tmp_path, callback=stop)
    assert first.work == Work(2 * USERS * STEPS, 2 * USERS * STEPS)
    again = tuned(Reinforce, small_data, config).load(tmp_path).learn(tmp_path)
    assert again.work == Work(3 * USERS * STEPS, 3 * USERS * STEPS)


def test_nothing_is_counted_outside_the_block(small_data: Dataset) -> None:
    backbone = policy_for(small_data).backbone
    rows = torch.ones(3, small_data.num_items)
    with counted(backbone, backbone) as work:
        backbone.predict_x0(rows, 0)
    backbone.predict_x0(rows, 0).sum().backward()
    assert work == Work(forward=3)  # a backbone that is named twice counts once
