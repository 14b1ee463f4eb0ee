"""The user-item graph of a data set as a module's buffers, and products with it.

Letters: U users, I items, N interactions, n any number of columns.
"""

from __future__ import annotations

import warnings

import scipy.sparse as sp
import torch
from torch import Tensor, nn


class Bipartite(nn.Module):
    """A sparse (U, I) matrix that is saved with a model's weights.

    Sizes are fixed at construction, so that a model without data can read a saved one in. Before ``fill`` it
    holds no interaction of anybody (N zeros).

    Example:
        >>> graph = Bipartite(2, 3, 3)
        >>> graph.fill(sp.csr_matrix([[1.0, 0, 1], [0, 0, 1]]))
        >>> graph.gather(torch.eye(3))
        tensor([[1., 0., 1.],
                [0., 0., 1.]])
    """

    indptr: Tensor
    items: Tensor
    values: Tensor

    def __init__(self, num_users: int, num_items: int, num_interactions: int) -> None:
        """Make room for N values of U users and I items."""
        super().__init__()
        self.shape = (num_users, num_items)
        indptr = torch.zeros(num_users + 1, dtype=torch.int64)
        indptr[1:] = num_interactions  # all values, zeros so far, stand in the first row
        self.register_buffer("indptr", indptr)
        self.register_buffer("items", torch.zeros(num_interactions, dtype=torch.int64))
        self.register_buffer("values", torch.zeros(num_interactions))

    def fill(self, matrix: sp.csr_matrix) -> None:
        """Take the values of ``matrix`` (U, I), which stores N.

        Raises:
            ValueError: if it has another shape or another number of values.
        """
        if matrix.shape != self.shape or matrix.nnz != self.items.numel():
            raise ValueError(
                f"a graph of shape {self.shape} with {self.items.numel()} interactions cannot hold one of "
                f"shape {matrix.shape} with {matrix.nnz}"
            )
        self.indptr.copy_(torch.as_tensor(matrix.indptr))
        self.items.copy_(torch.as_tensor(matrix.indices))
        self.values.copy_(torch.as_tensor(matrix.data))

    def gather(self, columns: Tensor) -> Tensor:
        """(U, n) the matrix times ``columns`` (I, n): what users have of their items."""
        return self._matrix(columns) @ columns

    def scatter(self, rows: Tensor) -> Tensor:
        """(I, n) the transposed matrix times ``rows`` (U, n): what items have of their users."""
        return self._matrix(rows).t() @ rows

    def degrees(self) -> tuple[Tensor, Tensor]:
        """Sums of the values of each user (U,) and of each item (I,)."""
        total = torch.cat([self.values.new_zeros(1), self.values.double().cumsum(0)])  # (N + 1,) float64
        users = (total[self.indptr[1:]] - total[self.indptr[:-1]]).to(self.values.dtype)
        return users, self.values.new_zeros(self.shape[1]).index_add(0, self.items, self.values)

    def _matrix(self, like: Tensor) -> Tensor:
        """The matrix as a sparse tensor of ``like``'s dtype; it shares the buffers."""
        with warnings.catch_warnings():  # torch calls its CSR tensors a beta
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                self.indptr, self.items, self.values.to(like.dtype), size=self.shape, check_invariants=False
            )
