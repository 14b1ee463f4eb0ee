"""The pure maps: their equations, at shapes and limits that are easy to get wrong."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refit_env.envs.wrappers.transforms import ChainState, FactorMap, LowRankMap, ResidualMap, TopKMap
from refit_env.policy import DiffusionPolicy


def orthonormal(dim: int, rank: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(dim, rank, generator=torch.Generator().manual_seed(0)))[0]


def vector(dim: int, bound: float = 6.0) -> gym.spaces.Box:
    return gym.spaces.Box(-bound, bound, (dim,), np.float32)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_residuals_are_counted_in_the_steps_deviations(policy: DiffusionPolicy, scale: float) -> None:
    apply = ResidualMap(policy, scale, bound=5.0, limit=6.0)
    u, a = torch.rand(4, 60), torch.randn(4, 60)
    for t in range(3):
        expected = policy.mean(u, t) + scale * policy.std[t] * a
        assert torch.allclose(apply(a, ChainState(u, t)), expected, atol=1e-6)
    rows = torch.tensor([2, 0, 1, 2])
    each = torch.cat([apply(a[i : i + 1], ChainState(u[i : i + 1], int(rows[i]))) for i in range(4)])
    assert torch.allclose(apply(a, ChainState(u, rows)), each, atol=1e-6)
    assert not apply(a, ChainState(u, 0)).requires_grad


def test_residuals_stay_in_the_box_and_the_mean_is_never_cut(policy: DiffusionPolicy) -> None:
    u = 20 * torch.rand(2, 60)
    mean = policy.mean(u, 0)
    limit = float(mean.abs().median())  # half of the means are outside
    apply = ResidualMap(policy, 1.0, bound=5.0, limit=limit)
    assert torch.equal(apply(torch.zeros(2, 60), ChainState(u, 0)), mean)
    for sign in (1.0, -1.0):
        moved = apply(torch.full((2, 60), sign * 1e4), ChainState(u, 0))
        expected = mean.clamp(min=limit) if sign > 0 else mean.clamp(max=-limit)
        assert torch.equal(moved, expected)
    assert apply(torch.full((2, 60), math.nan), ChainState(u, 0)).isnan().all()


@given(st.integers(2, 40), st.data())
def test_low_rank_residuals_are_in_the_span_at_unit_size(dim: int, data: Any) -> None:
    rank = data.draw(st.integers(1, dim - 1))
    factors = orthonormal(dim, rank)
    apply = LowRankMap(factors, bound=3.0)
    z = torch.randn(7, rank, generator=torch.Generator().manual_seed(rank))
    a = apply(z, ChainState(torch.zeros(7, dim), 0))
    assert a.shape == (7, dim) and apply.space.shape == (rank,)
    assert torch.allclose(a @ factors @ factors.T, a, atol=1e-4)  # in the span
    # The mean square of z is that of its residual, whatever the factors: unit variance makes unit size.
    assert torch.allclose(a.square().mean(1), z.square().mean(1), rtol=1e-4)


@given(
    hnp.arrays(np.float32, (3, 7), elements=st.sampled_from([-6.0, 0.0, 0.25, 1.0, 6.0])), st.integers(1, 7)
)
def test_topk_shows_the_highest_entries_in_order(u: np.ndarray, k: int) -> None:
    shown = TopKMap(k, vector(7)).features(torch.from_numpy(u))
    for row, ids, values in zip(u, shown["ids"], shown["values"], strict=True):
        order = sorted(range(7), key=lambda i: (-row[i], i))[:k]
        assert [round(float(i) * 6) for i in ids] == order
        assert values.tolist() == row[order].tolist()
    for name, space in TopKMap(k, vector(7)).spaces.items():
        assert all(row in space for row in shown[name].numpy())


def test_factor_coordinates_stay_in_their_box_at_its_corners() -> None:
    factors = orthonormal(50, 4)
    apply = FactorMap(factors, vector(50))
    corners = 6.0 * torch.sign(torch.cat([factors.T, -factors.T]))  # the furthest along each column
    shown = apply.features(corners)["factors"]
    assert torch.allclose(shown, corners @ factors, atol=1e-4)
    assert all(row in apply.spaces["factors"] for row in shown.numpy())
    assert np.allclose(apply.spaces["factors"].high, shown[:4].diagonal(), rtol=0.01)  # and it is no wider


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan, True, "1"])
def test_scales_and_bounds_are_finite_and_above_zero(policy: DiffusionPolicy, value: Any) -> None:
    with pytest.raises(ValueError, match=r"scale=.* must be a finite number above 0"):
        ResidualMap(policy, value, 5.0, 6.0)
    with pytest.raises(ValueError, match=r"bound=.* must be a finite number above 0"):
        ResidualMap(policy, 1.0, value, 6.0)
    with pytest.raises(ValueError, match=r"bound=.* must be a finite number above 0"):
        LowRankMap(orthonormal(9, 2), value)


@pytest.mark.parametrize("k", [0, 8, True, 2.0])
def test_topk_refuses_lengths_that_there_are_not(k: Any) -> None:
    with pytest.raises(ValueError, match=r"k=.* must be a whole number in 1\.\.7"):
        TopKMap(k, vector(7))
