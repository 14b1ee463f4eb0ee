"""``SparseRows``: a sparse matrix on a device, of which batches of rows are made dense.

Letters: U users, I items, N stored values, B users in a batch.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor


class SparseRows:
    """A (U, I) CSR matrix on a device, read a batch of rows at a time.

    Memory is linear in the stored values; a dense batch needs B * I values.

    Example:
        >>> import scipy.sparse as sp
        >>> rows = SparseRows(sp.csr_matrix([[0.0, 1.0], [1.0, 0.5]]))
        >>> rows.dense(torch.tensor([1, 0]))
        tensor([[1.0000, 0.5000],
                [0.0000, 1.0000]])
    """

    def __init__(self, matrix: sp.csr_matrix, device: torch.device | str = "cpu") -> None:
        """Copy ``matrix`` (U, I) to ``device``; values become float32, each row's columns ascending."""
        if not matrix.has_sorted_indices:
            matrix = matrix.sorted_indices()
        self.shape: tuple[int, int] = (int(matrix.shape[0]), int(matrix.shape[1]))
        self.indptr = torch.as_tensor(matrix.indptr, dtype=torch.int64, device=device)
        # row * I + column of each value, ascending, so that ``at`` is one binary search.
        row = np.repeat(np.arange(self.shape[0], dtype=np.int64), np.diff(matrix.indptr))
        keys = row * self.shape[1] + matrix.indices
        small = self.shape[0] * self.shape[1] <= np.iinfo(np.int32).max  # then half the memory holds them
        self.keys = torch.as_tensor(keys.astype(np.int32) if small else keys, device=device)  # (N,)
        ones = bool((matrix.data == 1).all())  # sets need no memory for their values
        self.values = (
            torch.ones(1, device=device).expand(matrix.nnz)
            if ones
            else torch.as_tensor(matrix.data, dtype=torch.float32, device=device)
        )

    @property
    def device(self) -> torch.device:
        """The device of the rows."""
        return self.indptr.device

    def counts(self, users: Tensor) -> Tensor:
        """Return the number of stored values (B,) int64 of each user in ``users`` (B,) int64."""
        return self.indptr[users + 1] - self.indptr[users]

    def dense(self, users: Tensor) -> Tensor:
        """Return the rows (B, I) float32 of ``users`` (B,) int64."""
        row, column, value = self.entries(users)
        out = torch.zeros(users.numel(), self.shape[1], device=self.device)
        out[row, column] = value
        return out

    def mask(self, users: Tensor) -> Tensor:
        """Return a mask (B, I) bool, true where the rows of ``users`` (B,) int64 store a value."""
        row, column, _ = self.entries(users)
        out = torch.zeros(users.numel(), self.shape[1], dtype=torch.bool, device=self.device)
        out[row, column] = True
        return out

    def at(self, users: Tensor, columns: Tensor) -> Tensor:
        """Return the values at some columns, without making the rows dense.

        Args:
            users: (B,) int64.
            columns: (B, K) int64.

        Returns:
            (B, K) float32, 0 where nothing is stored.

        Example:
            >>> import scipy.sparse as sp
            >>> rows = SparseRows(sp.csr_matrix([[0.0, 1.0], [1.0, 0.5]]))
            >>> rows.at(torch.tensor([1, 0]), torch.tensor([[1], [0]]))
            tensor([[0.5000],
                    [0.0000]])
        """
        if not self.keys.numel():
            return torch.zeros(columns.shape, device=self.device)
        key = (users[:, None] * self.shape[1] + columns).to(self.keys.dtype)  # (B, K)
        place = torch.searchsorted(self.keys, key).clamp(max=self.keys.numel() - 1)
        return torch.where(self.keys[place] == key, self.values[place], 0.0)

    def fill(self, dense: Tensor, users: Tensor, value: float) -> Tensor:
        """Return a copy of ``dense`` (B, I) with ``value`` where the rows of ``users`` (B,) store a value.

        Example:
            >>> import scipy.sparse as sp
            >>> rows = SparseRows(sp.csr_matrix([[0.0, 1.0], [1.0, 0.5]]))
            >>> rows.fill(torch.zeros(1, 2), torch.tensor([0]), -1.0)
            tensor([[ 0., -1.]])
        """
        row, column, _ = self.entries(users)
        out = dense.clone(memory_format=torch.contiguous_format)
        out.view(-1).index_fill_(0, row * self.shape[1] + column, value)
        return out

    def entries(self, users: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return batch row, column and value, each (n,), of every stored value of ``users`` (B,) int64."""
        counts = self.counts(users)
        total = int(counts.sum())
        row = torch.repeat_interleave(
            torch.arange(users.numel(), device=self.device), counts, output_size=total
        )
        first = torch.cumsum(counts, 0) - counts  # where each batch row begins in the output
        offset = torch.arange(total, device=self.device) - first[row]
        position = self.indptr[users][row] + offset
        return row, self.keys[position] - (users * self.shape[1])[row], self.values[position]


def without(matrix: sp.csr_matrix, other: sp.csr_matrix) -> sp.csr_matrix:
    """Return the matrix without the entries where ``other`` (of the same shape) stores a value.

    Example:
        >>> import scipy.sparse as sp
        >>> without(sp.csr_matrix([[3.0, 1.0]]), sp.csr_matrix([[5.0, 0.0]])).toarray()
        array([[0., 1.]])
    """
    pattern = other.copy()
    pattern.data = np.ones_like(pattern.data)
    out = sp.csr_matrix(matrix - matrix.multiply(pattern))  # x - x is 0 exactly
    out.eliminate_zeros()
    out.sort_indices()
    return out
