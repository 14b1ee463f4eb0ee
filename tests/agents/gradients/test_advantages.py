"""Baselines take off what they say, and the unbiased ones leave every policy gradient's mean alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.gradients.advantages import BASELINES, advantage


def test_integer_counts_keep_their_fractions() -> None:
    reward = torch.tensor([[3, 1, 0], [2, 2, 2]])  # hit counts arrive as integers from user callables
    expected = torch.tensor([[2.5, -0.5, -2.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(advantage("leave_one_out", reward), expected)


def test_batch_excludes_the_episode_itself() -> None:
    assert torch.allclose(
        advantage("batch", torch.tensor([[4.0], [1.0], [1.0]])), torch.tensor([[3.0], [-1.5], [-1.5]])
    )


def test_group_of_equal_rewards_is_zero_not_noise() -> None:
    reward = torch.full((2, 4), 0.3) + torch.rand(2, 4) * 1e-7
    assert advantage("group", reward).abs().max() < 1e-3


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=6))
def test_leave_one_out_sums_to_zero(values: list[float]) -> None:
    assert advantage("leave_one_out", torch.tensor([values])).sum().abs() < 1e-4


@pytest.mark.parametrize("name", ["leave_one_out", "group"])
def test_per_user_baselines_need_company(name: str) -> None:
    with pytest.raises(ValueError, match="samples_per_user >= 2"):
        advantage(name, torch.ones(3, 1))


def test_the_error_for_an_unknown_baseline_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="Did you mean 'leave_one_out'"):
        advantage("leave_one_ot", torch.ones(1, 2))


@pytest.mark.parametrize("name", ["none", "batch", "leave_one_out"])
def test_unbiased_baselines_keep_the_gradient_of_a_known_problem(name: str) -> None:
    """One coordinate, r(a) = a^2, a ~ N(mu, 1): d E[r] / d mu = 2 mu."""
    generator = torch.Generator().manual_seed(0)
    mu = 0.7
    noise = torch.randn(20_000, 8, generator=generator)
    reward = (mu + noise).square()
    samples = torch.stack([advantage(name, r[None]) for r in reward]).squeeze(1) * noise
    error = 4 * samples.mean(1).std() / samples.shape[0] ** 0.5
    assert abs(samples.mean() - 2 * mu) < error
    assert set(BASELINES) == {"none", "batch", "leave_one_out", "group", "group_mean"}
