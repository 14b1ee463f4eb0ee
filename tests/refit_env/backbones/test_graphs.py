"""Tests of sparse maps against dense ones."""

from __future__ import annotations

import warnings

import torch
from hypothesis import given
from hypothesis import strategies as st

from refit_env.backbones.graphs import Operator


def test_normalisation_by_hand() -> None:
    """Two users, three items, one of them without edges."""
    edges = torch.tensor([[0, 1, 0], [0, 0, 2]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        operator = Operator.symmetric(edges, (2, 3))
    expected = torch.tensor([[0.5, 0.0, 0.5**0.5], [0.5**0.5, 0.0, 0.0]])
    assert torch.allclose(operator.matrix.to_dense(), expected)
    assert torch.allclose(operator.transposed.to_dense(), expected.T)


def test_degrees_may_come_from_another_graph() -> None:
    edges = torch.tensor([[0, 1], [0, 0]])
    operator = Operator.symmetric(edges, (2, 1), (torch.tensor([1, 4]), torch.tensor([9])))
    assert torch.allclose(operator.matrix.to_dense(), torch.tensor([[1 / 3], [1 / 6]]))


@given(st.sets(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=20), st.integers(1, 3))
def test_products_and_gradients_are_the_dense_matrixs(pairs: set[tuple[int, int]], size: int) -> None:
    edges = torch.tensor(sorted(pairs, key=lambda pair: (pair[0] * 3) % 5), dtype=torch.int32)
    operator = Operator.symmetric(edges.reshape(-1, 2).T, (5, 7), dtype=torch.float64)
    dense = operator.matrix.to_dense()
    for one, other, width in ((operator, dense, 7), (operator.T, dense.T, 5)):
        x = torch.randn(width, size, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(other.shape[0], size, dtype=torch.float64)
        assert torch.allclose(one(x), other @ x)
        (found,) = torch.autograd.grad((one(x) * weight).sum(), x)
        assert torch.allclose(found, other.T @ weight)
