"""The penalty for disliked items, by hand; and the share of them that an evaluation reports."""

from __future__ import annotations

from dataclasses import replace
from math import log2

import pytest
import torch

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from refit_env.backbones import make_backbone
from refit_env.backbones.closed_form import ClosedForm
from refit_env.data import Dataset, Interactions, synthesize
from refit_env.evaluation.ranking import evaluate, selecting_rule
from refit_env.policy import DiffusionPolicy
from refit_env.rewards import make_relevance, make_reward
from refit_env.rewards.dislikes import Dislikes
from tests.refit_env.rewards.test_golden import LISTS, SCORES, USERS


@pytest.fixture
def disliking(five: Dataset) -> Dataset:
    """Users 0 and 4 rated item 2 low, user 1 items 3 and 4, in train; user 2 item 4 in test."""
    none = Interactions.from_pairs([], [], 5, 6)
    train = Interactions.from_pairs([0, 1, 1, 4], [2, 3, 4, 2], 5, 6)
    return replace(five, dislikes=(train, none, Interactions.from_pairs([2], [4], 5, 6)))


@pytest.mark.parametrize(
    ("discount", "expected"),
    [
        ("flat", [-1 / 2, -1 / 2, 0.0, 0.0, 0.0]),
        ("log", [-1 / log2(3) / (1 + 1 / log2(3)), -1 / (1 + 1 / log2(3)), 0.0, 0.0, 0.0]),
    ],
)
def test_a_list_loses_what_its_disliked_items_weigh(
    disliking: Dataset, discount: str, expected: list[float]
) -> None:
    relevance = make_relevance("train", disliking)
    reward = make_reward("dislikes", disliking, relevance, k=2, discount=discount)
    result = reward(SCORES, USERS)
    assert result.lists.tolist() == LISTS
    assert result.value.tolist() == pytest.approx(expected, abs=1e-6)
    assert isinstance(reward, Dislikes) and reward.gains(USERS)[1].tolist() == [0, 0, 0, -1, -1, 0]
    hits, mix = (
        make_reward(spec, disliking, relevance, k=2)(SCORES, USERS).value
        for spec in ("r_ra", {"r_ra": 1.0, "dislikes": 0.5})
    )
    flat = make_reward("dislikes", disliking, relevance, k=2)(SCORES, USERS).value
    assert torch.allclose(mix, hits + 0.5 * flat)


def test_data_without_dislikes_is_refused(five: Dataset) -> None:
    with pytest.raises(ValueError, match=r"reads items that users rated low, and .* has none: prepare it"):
        make_reward("dislikes", five, make_relevance("train", five), k=2)


def test_an_evaluation_counts_the_dislikes_of_its_split(disliking: Dataset) -> None:
    held = Interactions.from_pairs([0, 1, 2], [5, 5, 5], 5, 6)
    data = replace(disliking, valid=Interactions.from_pairs([0], [3], 5, 6), test=held)
    found = evaluate(lambda users: SCORES[users], data, "test", ks=(1, 2))
    # Seen items are masked: user 2, who has 1 and 2, gets 4 and then 5.
    assert found.lists[2].tolist() == [4, 5]
    assert found.per_user["dislikes@1"].tolist() == [0.0, 0.0, 1.0]
    assert found.per_user["dislikes@2"].tolist() == [0.0, 0.0, 0.5]
    assert found.means()["dislikes@2"] == pytest.approx(1 / 6)
    assert "dislikes@2" not in evaluate(lambda u: SCORES[u], replace(data, dislikes=None), ks=(2,)).means()


def test_validation_selects_fewer_dislikes_where_the_data_has_them(disliking: Dataset, five: Dataset) -> None:
    rule = selecting_rule("dislikes@6 where ndcg@6 >= 0.9 * start", disliking)
    start = {"dislikes@6": 0.3, "ndcg@6": 0.5}
    assert rule.score({"dislikes@6": 0.1, "ndcg@6": 0.46}, start) == -0.1
    with pytest.raises(ValueError, match="found 'dislikes@6'"):
        selecting_rule("dislikes@6", five)


def test_fine_tuning_on_it_removes_disliked_items_from_the_lists() -> None:
    data = synthesize(num_users=120, num_items=60, num_clusters=3)
    counts = torch.bincount(torch.from_numpy(data.train.items).long(), minlength=60)
    popular = counts.argsort(descending=True)[:4].tolist()
    seen = data.train.csr + data.valid.csr + data.test.csr
    pairs = [(user, item) for item in popular for user in range(120) if not seen[user, item]]
    low = Interactions.from_pairs(*zip(*pairs, strict=True), 120, 60)
    data = replace(data, dislikes=(low, low, low))
    backbone = make_backbone("linear", 60, {"l2": 20.0})
    assert isinstance(backbone, ClosedForm)
    backbone.fit(data)
    config = ReinforceConfig(users_per_batch=120, learning_rate=1e-2)
    env = {"data": data, "k": 5, "reward": "dislikes", "relevance": "holdout"}
    agent = Reinforce(DiffusionPolicy(backbone, 1), "ReFiT-Custom-v0", config, env_kwargs=env, device="cpu")
    before = agent.evaluate("valid").means()["dislikes@20"]
    for _ in range(15):
        agent.update(torch.arange(120))
    assert agent.evaluate("valid").means()["dislikes@20"] < 0.8 * before
