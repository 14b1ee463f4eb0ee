"""Tests of nearby places: distances by hand, pairs, the published matrix, its gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refit_env.backbones.geography import (
    EARTH_KM,
    GeoEncoder,
    PlaceGraph,
    coordinates_of,
    kilometres,
    near_pairs,
)
from refit_env.data import synthesize, synthesize_checkins
from refit_env.errors import DataError

KM = 180 / math.pi / EARTH_KM
"""Degrees of latitude per kilometre."""


def graph(places: list[tuple[float, float]], radius: float = 1.0, nearest: int = 0) -> PlaceGraph:
    made = PlaceGraph(len(places), radius, nearest)
    made.coordinates.copy_(torch.tensor(places))
    return made


def test_distances_by_hand() -> None:
    paris, london = torch.tensor([[48.8566, 2.3522], [51.5074, -0.1278]], dtype=torch.float64)
    assert float(kilometres(paris, london)) == pytest.approx(343.6, abs=0.5)
    assert float(kilometres(paris, paris)) == 0.0
    pole, other = torch.tensor([[90.0, 0.0], [-90.0, 77.0]], dtype=torch.float64)
    assert float(kilometres(pole, other)) == pytest.approx(math.pi * EARTH_KM)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(0, 4), st.integers(0, 10_000))
def test_pairs_are_those_of_all_pairs(count: int, nearest: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    where = np.array([60.0, 20.0]) + 0.03 * rng.random((count, 2))
    where[rng.random(count) < 0.1] = np.nan
    source, target, apart = near_pairs(where, 1.0, nearest)
    points = torch.from_numpy(where)
    full = kilometres(points[:, None], points[None]).numpy()  # (I, I)
    near = full <= 1.0  # NaN is not
    np.fill_diagonal(near, False)
    if nearest:
        ranks = np.where(near, full, np.inf).argsort(1, kind="stable").argsort(1, kind="stable")
        near &= (ranks < nearest) | (ranks < nearest).T
    assert list(zip(target.tolist(), source.tolist(), strict=True)) == list(
        map(tuple, np.argwhere(near).tolist())
    )
    assert np.allclose(apart, full[target, source], atol=1e-6)


def test_the_matrix_is_the_published_one() -> None:
    """Places 0 and 1 are half a kilometre apart, 2 is near 1 only, 3 has no coordinates."""
    made = graph([(10.0, 5.0), (10.0 + 0.5 * KM, 5.0), (10.0 + 1.2 * KM, 5.0), (math.nan, math.nan)])
    dense = made.matrix(torch.zeros(1, dtype=torch.float64)).to_dense()
    degree = [2, 3, 2, 1]
    expected = torch.diag(torch.tensor([1 / 2, 1 / 3, 1 / 2, 1.0], dtype=torch.float64))
    for a, b, apart in ((0, 1, 0.5), (1, 2, 0.7)):
        expected[a, b] = expected[b, a] = math.exp(-(apart**2)) / math.sqrt(degree[a] * degree[b])
    assert torch.allclose(dense, expected, atol=1e-3)


def test_the_graph_is_the_same_in_both_types_and_follows_the_coordinates() -> None:
    torch.manual_seed(0)
    made = graph((torch.tensor([40.7, -74.0]) + 0.05 * torch.rand(40, 2)).tolist())
    single = made.matrix(torch.zeros(1)).to_dense()
    double = made.double().matrix(torch.zeros(1, dtype=torch.float64)).to_dense()
    assert torch.allclose(single.double(), double, atol=1e-6) and (double > 0).sum() > 60
    other = graph([(0.0, 0.0)] * 40)
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.matrix(torch.zeros(1)).to_dense(), single)


def test_the_products_gradient() -> None:
    made = graph((torch.tensor([40.7, -74.0]) + 0.02 * torch.rand(9, 2)).tolist())
    x = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(made.spread, (x,))


def test_steps_of_a_walk() -> None:
    made = graph([(10.0, 5.0), (10.0 + 0.5 * KM, 5.0), (math.nan, math.nan)])
    walk = made.kilometres(torch.tensor([[0, 1, 1, 0, 2, 0, 3]]))
    assert walk[0].tolist() == pytest.approx([0, 0.5, 0, 0.5, 0, 0, 0], abs=1e-3)


def test_an_encoder_without_layers_is_its_input_and_with_one_the_mean() -> None:
    made, x = graph([(0.0, 0.0), (0.0, 0.001)]), torch.randn(2, 4)
    assert torch.equal(GeoEncoder(4, 0)(x, made), x)
    one = GeoEncoder(4, 1)
    out = torch.nn.functional.leaky_relu(one.layers[0](made.matrix(x) @ x))
    assert torch.allclose(one(x, made), (x + out) / 2, atol=1e-6)


def test_missing_coordinates_are_an_error() -> None:
    found = coordinates_of(synthesize_checkins())
    assert found.shape == (60, 2) and found.dtype == torch.float32
    with pytest.raises(DataError, match="'lat' and 'lon'"):
        coordinates_of(synthesize(num_users=20, num_items=30))
