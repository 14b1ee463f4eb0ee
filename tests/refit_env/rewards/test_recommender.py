"""The reward by a saved recommender: its probabilities, its checkpoint, its errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import refit_env
from refit_env.backbones import backbone_for
from refit_env.data import (
    Dataset,
    load_dataset,
    synthesize_checkins,
    synthesize_sessions,
    synthesize_social,
)
from refit_env.errors import CheckpointError
from refit_env.policy import DiffusionPolicy
from refit_env.rewards import ModelReward, make_relevance, make_reward, models_in

del refit_env  # registers the environments


def test_the_gain_of_an_item_is_its_probability(model_for: Callable[[Dataset], Path]) -> None:
    """NDCG with the softmax of the policy's scores on what is visible as graded relevance."""
    data = load_dataset("synthetic")
    relevance = make_relevance("holdout", data)
    reward = make_reward("recommender", data, relevance, k=3, checkpoint=model_for(data), temperature=0.1)
    policy = DiffusionPolicy.load(model_for(data)).double()
    users = torch.from_numpy(relevance.users[:4])
    visible = torch.from_numpy(relevance.visible[relevance.users[:4]].toarray()).double()
    odds = torch.softmax(policy.recommend_scores(users, visible) / 0.1, 1)
    assert isinstance(reward, ModelReward)
    assert torch.allclose(reward.predict(users), odds.float(), atol=1e-7)
    odds[visible > 0] = 0.0  # no list may hold them
    scores = torch.rand(4, data.num_items, generator=torch.Generator().manual_seed(0))
    weights = 1 / np.log2(np.arange(3) + 2)
    listed = scores.masked_fill(visible > 0, -1.0).topk(3, dim=1).indices
    gained = (odds.gather(1, listed).numpy() * weights).sum(1)
    ideal = (odds.topk(3, dim=1).values.numpy() * weights).sum(1)
    assert reward(scores, users).value.numpy() == pytest.approx(gained / ideal, rel=1e-5)
    assert models_in({"ease": 1.0, "recommender": 1.0, "ndcg": 1.0}) == ["ease", "recommender"]


EMBEDDED: dict[str, tuple[Dataset, dict[str, Any]]] = {
    "diff-poi": (
        synthesize_checkins(num_users=15, num_items=24, checkins=20),
        {"embedding": 8, "history": 6, "num_steps": 10, "chain_steps": 2, "dropout": 0.0},
    ),
    "dreamrec": (synthesize_sessions(num_sessions=60, num_items=24), {"embedding": 8, "num_steps": 10}),
    "recdiff": (
        synthesize_social(num_users=40, num_items=30, meets=10),
        {"embedding": 6, "hidden": 8, "num_steps": 6},
    ),
}


@pytest.mark.parametrize("backbone", EMBEDDED)
def test_the_environments_model_is_used_unless_another_is_named(backbone: str, tmp_path: Path) -> None:
    data, options = EMBEDDED[backbone]
    policies = []
    for seed in (0, 1):
        policies.append(DiffusionPolicy(backbone_for(data, backbone, options, seed=seed), 2))
        policies[-1].save(tmp_path / str(seed))
    for kwargs, expected in ((None, 0), ({"checkpoint": str(tmp_path / "1")}, 1)):
        env = gym.make(
            "ReFiT-Custom-v0", data=data, backbone=backbone, checkpoint=str(tmp_path / "0"), num_steps=2,
            relevance="train", k=5, reward={"recommender": 1.0}, reward_kwargs=kwargs,
        )  # fmt: skip
        problem = env.unwrapped.problem  # type: ignore[attr-defined]
        [(reward, _)] = problem.reward_fn.parts()
        users = torch.from_numpy(problem.users[:3])
        scores = policies[expected].scorer(problem.dataset)(users)
        assert torch.allclose(reward.predict(users), torch.softmax(scores, 1), atol=1e-6)
        best = problem.reward_fn(scores, users).value
        assert torch.allclose(best, torch.ones(3), atol=1e-5)


def test_mistakes_are_named(five: Dataset, model_for: Callable[[Dataset], Path], tmp_path: Path) -> None:
    relevance, other = make_relevance("train", five), model_for(load_dataset("synthetic"))
    with pytest.raises(ValueError, match=r"reward_kwargs=\{'checkpoint': FOLDER\}"):
        make_reward("recommender", five, relevance, k=2)
    with pytest.raises(ValueError, match=r"data set 'table' has 6"):
        make_reward("recommender", five, relevance, k=2, checkpoint=other)
    with pytest.raises(ValueError, match=r"temperature of reward .recommender. must be > 0"):
        make_reward("recommender", five, relevance, k=2, checkpoint=model_for(five), temperature=0.0)
    with pytest.raises(CheckpointError, match="nothing"):
        make_reward("recommender", five, relevance, k=2, checkpoint=tmp_path / "nothing")
