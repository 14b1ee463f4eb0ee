"""What the algorithms refuse, before a training begins."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from refit_env.backbones import make_backbone
from refit_env.data import Dataset
from refit_env.envs import DenoisingVectorEnv
from refit_env.errors import SettingError
from refit_env.policy import DiffusionPolicy
from tests.agents.algorithms.small import SMALL, Factory, agent
from tests.agents.algorithms.two_items import agent_on


def test_sampled_items_are_for_estimators_that_compute_items() -> None:
    with pytest.raises(SettingError, match="sampled_items must be 0 for estimator 'score'"):
        ReinforceConfig(estimator="score", sampled_items=8)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "update returned None, expected numbers by name"),
        (0.5, "update returned 0.5, expected numbers by name"),
        ({"loss": "low"}, "update returned 'low' for 'loss', expected a number by name"),
        ({"loss": torch.zeros(2)}, "update returned a Tensor for 'loss', expected a number by name"),
        ({1: 0.5}, "update returned 0.5 for"),
        ({"loss": np.ones(3)}, "for 'loss', expected a number by name"),
        ({"loss": np.array(["x"])}, "for 'loss', expected a number by name"),
        ({"loss": 10**400}, "for 'loss', expected a number by name"),
        ({"loss": torch.tensor(1j)}, "for 'loss', expected a number by name"),
        ({"iteration": 5.0}, "update returned 5.0 for 'iteration', which is the log's own name"),
    ],
)
def test_what_an_update_returns_is_checked(
    found: Any, message: str, make_policy: Factory, small_data: Dataset
) -> None:
    class Own(Reinforce):
        """Returns something else than numbers by name."""

        def update(self, users: Tensor) -> dict[str, float]:
            return found  # type: ignore[no-any-return]

    learner = agent_on(Own, make_policy(), small_data, SMALL)
    with pytest.raises(ValueError, match=f"Own.*{re.escape(message)}"):
        learner.learn()


def test_resume_refuses_another_configuration(
    make_policy: Factory, small_data: Dataset, tmp_path: Path
) -> None:
    agent(make_policy(), small_data).save(tmp_path)
    with pytest.raises(ValueError, match=r"saved with learning_rate=0\.001, this one has 0\.5"):
        agent(make_policy(), small_data, replace(SMALL, learning_rate=0.5)).load(tmp_path)
    with pytest.raises(ValueError, match=r"saved with reward=\['ndcg'\], this one has \['recall'\]"):
        agent(make_policy(), small_data, reward="recall").load(tmp_path)
    other = replace(small_data, valid=small_data.test, test=small_data.valid)
    with pytest.raises(ValueError, match="saved with data_fingerprint="):
        agent(make_policy(), other).load(tmp_path)


def test_selection_needs_validation_items_that_the_reward_does_not_see(
    make_policy: Factory, small_data: Dataset
) -> None:
    with pytest.raises(ValueError, match=r"none is left to select the weights: raise .*selection_share"):
        agent(make_policy(), small_data, relevance="validation", relevance_kwargs={"selection_share": 0.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": "scor"}, "Did you mean 'score'"),
        ({"baseline": "groop"}, "Did you mean 'group'"),
        ({"baseline": "leave_one_out", "samples_per_user": 1}, "samples_per_user must be >= 2 for baseline"),
        ({"train_steps": "first:2"}, "must be 'all', 'random:n' or 'last:n'"),
        ({"train_steps": "last:1"}, "train_steps must be 'all' for estimator 'pathwise'"),
        ({"logprob_reduction": "max"}, "must be one of mean, sum; found 'max'"),
    ],
)
def test_wrong_settings_are_refused_before_training(
    change: dict[str, Any], message: str, make_policy: Factory, small_data: Dataset
) -> None:
    with pytest.raises(ValueError, match=message):
        agent(make_policy(), small_data, replace(SMALL, **change))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": 3}, "policy must be a DiffusionPolicy, found 3"),
        ({"env": "CartPole-v1"}, "env must be a denoising environment, .* found 'CartPole-v1'"),
        ({"env": 3}, "env must be a str or a DenoisingVectorEnv, found 3"),
        ({"config": {"iterations": 3}}, "config must be a ReinforceConfig or None, found a dict"),
        ({"env_kwargs": "reward"}, "env_kwargs must be a Mapping or None, found 'reward'"),
        ({"seed": 1.5}, "seed must be a whole number"),
    ],
)
def test_arguments_of_another_kind_are_refused(
    arguments: dict[str, Any], message: str, make_policy: Factory
) -> None:
    given = {"policy": make_policy(), "env": "ReFiT-Synthetic-v0", "device": "cpu"} | arguments
    with pytest.raises(ValueError, match=message):
        Reinforce(**given)


def test_misfits_are_refused_before_training(make_policy: Factory, small_data: Dataset) -> None:
    with pytest.raises(ValueError, match="use estimator 'score'"):
        agent(make_policy(), small_data, reward="r_cos")
    env = DenoisingVectorEnv(small_data, num_envs=3, num_steps=3, relevance="recent", backend="torch")
    with pytest.raises(ValueError, match=r"3 sub-environments; users_per_batch \* samples_per_user is 16"):
        Reinforce(make_policy(), env, SMALL)
    env = DenoisingVectorEnv(small_data, num_envs=16, num_steps=2, relevance="recent", backend="torch")
    with pytest.raises(ValueError, match="environment's T is 2, the policy's 3"):
        Reinforce(make_policy(), env, SMALL)
    with pytest.raises(ValueError, match=r"select must name metrics among .*found 'ndcg@21'"):
        agent(make_policy(), small_data, replace(SMALL, select="ndcg@21"))


def test_a_backbone_without_item_biases_says_so(small_data: Dataset) -> None:
    backbone = make_backbone("linear", small_data.num_items)
    config = replace(SMALL, item_bias_learning_rate=1e-3)
    with pytest.raises(SettingError, match="'linear' as fitted has none: fit it with popularity_penalty"):
        agent(DiffusionPolicy(backbone, 1), small_data, config)
