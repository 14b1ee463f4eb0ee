"""The stacked denoiser in training: its examples, its closed form's settings, REINFORCE."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from agents.algorithms.reinforce import Reinforce, ReinforceConfig
from agents.training.closed_form import base_settings
from agents.training.examples import ranked_examples
from agents.training.pretrain_config import published_training
from refit_env.backbones import backbone_for
from refit_env.backbones.held_rows import held_rows
from refit_env.data import Dataset, RowDataset
from refit_env.policy import DiffusionPolicy


def test_supervised_training_ranks_the_rows_that_reinforce_trains_on(
    task_data: dict[str, Dataset], small_configs: dict[str, dict[str, Any]]
) -> None:
    for task in ("sequential", "poi"):
        rows = task_data[task].episodes
        assert isinstance(rows, RowDataset)
        backbone = backbone_for(rows, "stacked", small_configs["stacked"], seed=0)
        config = published_training("stacked", rows.name)
        assert (config.objective, config.target) == ("ranking", "train")
        examples = ranked_examples(backbone, rows, config, torch.device("cpu"))
        assert np.array_equal(examples.ids, np.flatnonzero(held_rows(rows, 0.25)))
        assert (examples.relevant(examples.ids).sum(1) == 1).all() and examples.hidden is None


def test_the_closed_forms_settings_are_chosen_on_validation(task_data: dict[str, Dataset]) -> None:
    data = task_data["poi"]
    given = {"hidden": 4, "recency": "none", "repeats": "sum"}
    found = base_settings(data, "stacked", given, select="ndcg@20", device="cpu")
    backbone = backbone_for(data, "stacked", given | found, seed=0)
    assert found.keys() & given.keys() <= {"recency", "repeats"} and found["l2"] > 0
    assert backbone.base.config.recency == "none" and backbone.base.config.repeats == "sum"
    assert backbone.config.hidden == 4


def test_reinforce_raises_the_reward_of_training(task_data: dict[str, Dataset]) -> None:
    data = task_data["poi"]
    options = {"l2": 30.0, "num_steps": 1, "hidden": 8}
    goal = {"data": data, "backbone": "stacked", "backbone_options": options, "k": 5}
    config = ReinforceConfig(iterations=60, users_per_batch=32, samples_per_user=8, learning_rate=3e-2)
    policy = DiffusionPolicy(backbone_for(data, "stacked", options, seed=0), 1, exploration_std=0.05)
    kwargs = goal | {"reward": "ndcg", "relevance": "train"}
    agent = Reinforce(policy, "ReFiT-Custom-v0", replace(config, eval_every=60), env_kwargs=kwargs, seed=0)
    rewards = [row["reward/mean"] for row in agent.learn().history if "reward/mean" in row]
    assert sum(rewards[-10:]) / 10 > sum(rewards[:10]) / 10 + 0.05
