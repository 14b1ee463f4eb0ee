"""The saved graph: products by hand, refusal of another matrix, float64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refit_env.backbones.bipartite import Bipartite


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 2)),
    st.integers(1, 3),
)
def test_products_are_the_dense_matrix(dense: np.ndarray, columns: int) -> None:
    matrix = sp.csr_matrix(dense)
    graph = Bipartite(*dense.shape, matrix.nnz)
    graph.fill(matrix)
    right = torch.arange(dense.shape[1] * columns, dtype=torch.float32).view(-1, columns)
    left = torch.arange(dense.shape[0] * columns, dtype=torch.float32).view(-1, columns)
    np.testing.assert_allclose(graph.gather(right), dense @ right.numpy())
    np.testing.assert_allclose(graph.scatter(left), dense.T @ left.numpy())
    users, items = graph.degrees()
    np.testing.assert_allclose(users, dense.sum(1))
    np.testing.assert_allclose(items, dense.sum(0))


def test_gradients_flow_and_doubles_are_doubles() -> None:
    graph = Bipartite(2, 3, 2)
    graph.fill(sp.csr_matrix([[0.0, 2, 0], [1, 0, 0]]))
    right = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)
    graph.gather(right).sum().backward()
    assert right.grad is not None and right.grad.flatten().tolist() == [1.0, 2.0, 0.0]
    assert graph.scatter(torch.ones(2, 1, dtype=torch.float64)).dtype is torch.float64


def test_an_unfilled_graph_holds_nothing_and_another_is_refused() -> None:
    graph = Bipartite(2, 3, 2)
    assert not graph.gather(torch.ones(3, 1)).any()
    with pytest.raises(ValueError, match=r"shape \(2, 3\) with 2 interactions cannot hold"):
        graph.fill(sp.csr_matrix(np.ones((2, 3))))
