"""Tests of distances on the hyperboloid: the ambient formula, axioms, equal points."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refit_env.backbones.lorentz import squared_distance, squared_distances


def ambient(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return arcosh(-<x, y>)^2 of the points, (B, I)."""

    def point(vectors: torch.Tensor) -> torch.Tensor:
        length = vectors.norm(dim=-1, keepdim=True)
        return torch.cat([torch.cosh(length), torch.sinh(length) * vectors / length], -1)

    x, y = point(left), point(right)
    return torch.arccosh(x[:, :1] @ y[:, :1].T - x[:, 1:] @ y[:, 1:].T).square()


@settings(deadline=None)  # the first call loads code
@given(st.integers(0, 1000), st.sampled_from([0.1, 1.0, 3.0]))
def test_it_is_the_ambient_formula(seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    left = size * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    right = size * torch.randn(5, 3, generator=generator, dtype=torch.float64)
    found = squared_distances(left, right)
    torch.testing.assert_close(found, ambient(left, right), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(squared_distance(left, right[:4]), found.diagonal(), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found.T, squared_distances(right, left))


def test_far_from_the_origin_it_is_longer_than_euclidean() -> None:
    left, right = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    assert float(squared_distance(left, right)) > 18.0
    near = squared_distance(left / 1000, right / 1000)
    np.testing.assert_allclose(near, 18e-6, rtol=1e-4)


def test_coinciding_points_and_the_origin_have_finite_gradients() -> None:
    left = torch.tensor([[0.3, 0.1], [0.0, 0.0]], requires_grad=True)
    distance = squared_distance(left, left.detach().clone())
    distance.sum().backward()
    assert float(distance.detach().max()) < 1e-6
    assert left.grad is not None and torch.isfinite(left.grad).all()
