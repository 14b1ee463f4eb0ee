"""Credit of single numbers: exact, of mean zero, and with the gradient's expectation.

The oracle is numerical integration over one item's own draw. Letters as in
``agents.gradients.counterfactual_advantage``.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agents.gradients.counterfactual_advantage import counterfactual_advantage
from agents.gradients.estimators import expected_slope

STD = 0.3


def list_reward(scores: Tensor, gains: Tensor, discount: Tensor) -> Tensor:
    """(N,) what the ranks of ``scores`` (N, I) earn."""
    order = scores.argsort(dim=1, descending=True)[:, : discount.numel()]
    return (gains[order] * discount).sum(1)


def redrawn(scores: Tensor, mean: Tensor, i: int, count: int = 20_001) -> tuple[Tensor, Tensor]:
    """Copies of ``scores`` (I,) with item i on a grid of +-6 deviations, and the grid's weights."""
    grid = torch.linspace(-6, 6, count, dtype=torch.float64)
    many = scores.double().repeat(count, 1)
    many[:, i] = mean[i] + STD * grid
    weight = torch.exp(-0.5 * grid.square())
    return many, weight / weight.sum()


@given(seed=st.integers(0, 10_000), items=st.integers(2, 6), k=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_it_is_the_reward_less_its_mean_over_the_items_own_draw(seed: int, items: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mean, gains = torch.rand(items, generator=generator), torch.rand(items, generator=generator)
    discount = torch.rand(min(k, items), generator=generator).sort(descending=True).values
    scores = mean + STD * torch.randn(items, generator=generator)
    found = counterfactual_advantage(scores[None], mean[None], gains[None], discount, STD)[0]
    reward = float(list_reward(scores[None], gains, discount))
    for i in range(items):
        many, weight = redrawn(scores, mean, i)
        expected = float((list_reward(many, gains.double(), discount.double()) * weight).sum())
        assert abs(float(found[i]) - (reward - expected)) < 2e-3


def test_weighing_the_own_noise_by_it_gives_the_exact_slope() -> None:
    """E over item i's own draw of A_i eps_i / std is the slope of ``agents.gradients.estimators``, others
    held."""
    generator = torch.Generator().manual_seed(3)
    mean, gains = torch.rand(5, generator=generator), torch.rand(5, generator=generator)
    discount = torch.tensor([1.0, 0.6, 0.3])
    scores = mean + STD * torch.randn(5, generator=generator)
    slope = expected_slope(scores[None], mean[None], gains[None], discount, STD)[0]
    for i in range(5):
        many, weight = redrawn(scores, mean, i)
        advantage = counterfactual_advantage(
            many.float(), mean.expand(len(many), -1), gains.expand(len(many), -1), discount, STD
        )[:, i]
        noise = (many[:, i] - mean[i]) / STD
        assert abs(float((advantage * noise / STD * weight).sum()) - float(slope[i])) < 5e-3
        assert abs(float((advantage * weight).sum())) < 2e-3  # an advantage has mean zero


def test_it_varies_less_than_a_chains_own_advantage() -> None:
    items, count = 200, 4_000
    generator = torch.Generator().manual_seed(1)
    mean = torch.rand(items, generator=generator).expand(count, -1)
    gains = (torch.rand(items, generator=generator) < 0.1).float()
    noise = torch.randn(count, items, generator=generator)
    scores, discount = mean + STD * noise, torch.full((5,), 0.2)
    reward = list_reward(scores, gains, discount)
    whole = (reward - reward.mean())[:, None] * noise
    each = counterfactual_advantage(scores, mean, gains.expand(count, -1), discount, STD) * noise
    assert float(each.var(0).sum()) < 0.3 * float(whole.var(0).sum())


def test_items_that_no_list_may_hold_leave_the_others_alone() -> None:
    mean, hidden = torch.tensor([[0.9, 0.5, 0.4]]), torch.tensor([[True, False, False]])
    scores = (mean + torch.tensor([[0.1, -0.1, 0.2]])).masked_fill(hidden, -math.inf)
    gains, discount = torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([1.0])
    found = counterfactual_advantage(scores, mean, gains, discount, STD)
    pair = counterfactual_advantage(scores[:, 1:], mean[:, 1:], gains[:, 1:], discount, STD)
    assert torch.allclose(found[:, 1:], pair, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3])
def test_a_list_as_long_as_the_catalogue_gives_no_flat_credit(k: int) -> None:
    scores = torch.tensor([[0.3, 0.1, 0.2]])[:, :k]
    found = counterfactual_advantage(scores, scores, torch.ones(1, k), torch.full((k,), 1 / k), STD)
    assert torch.equal(found, torch.zeros(1, k))
