"""Graphs as sparse linear maps: messages from source nodes to target nodes, with gradients.

Letters: R target nodes, C source nodes, n edges, D numbers of a message.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor


@dataclass(frozen=True)
class Operator:
    """A sparse matrix and its transpose, both stored by rows.

    In torch, the product with the transpose of a CSR matrix is many times slower than with the matrix, and
    its gradient computes the transpose at every step; here both are computed once.

    Attributes:
        matrix: (R, C) sparse CSR.
        transposed: (C, R) sparse CSR.
    """

    matrix: Tensor
    transposed: Tensor

    @classmethod
    def symmetric(
        cls,
        edges: Tensor,
        shape: tuple[int, int],
        degrees: tuple[Tensor, Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Operator:
        """Return the symmetrically normalised adjacency D_r^-1/2 A D_c^-1/2 (Kipf and Welling, 2017, Eq. 2).

        Args:
            edges: (2, n) integer: target nodes and source nodes.
            shape: R and C.
            degrees: (R,) and (C,) degrees; None counts the edges. A degree of 0 becomes 1.
            dtype: dtype of the values.

        Example:
            >>> edges = torch.tensor([[0, 0, 1], [0, 1, 1]])
            >>> Operator.symmetric(edges, (2, 2)).matrix.to_dense()
            tensor([[0.7071, 0.5000],
                    [0.0000, 0.7071]])
        """
        target, source = edges[0].long(), edges[1].long()  # (n,)
        if degrees is None:
            degrees = count_edges(target, shape[0]), count_edges(source, shape[1])
        left, right = (degree.clamp(min=1).to(dtype) for degree in degrees)  # (R,), (C,)
        values = (left[target] * right[source]).rsqrt()  # (n,)
        forward = _by_rows(target, source, values, shape)
        return cls(forward, _by_rows(source, target, values, (shape[1], shape[0])))

    @classmethod
    def of(cls, matrix: sp.csr_matrix, device: torch.device | str = "cpu") -> Operator:
        """Return the map of a SciPy matrix (R, C), in float32.

        Example:
            >>> Operator.of(sp.csr_matrix([[0.0, 2.0], [0.0, 0.0]]))(torch.eye(2))
            tensor([[0., 2.],
                    [0., 0.]])
        """
        entries = matrix.tocoo()
        place = np.stack([entries.row, entries.col]).astype(np.int64)
        rows, columns = torch.as_tensor(place, device=device)  # (n,) each
        values = torch.as_tensor(entries.data, dtype=torch.float32, device=device)
        forward = _by_rows(rows, columns, values, matrix.shape)
        return cls(forward, _by_rows(columns, rows, values, matrix.shape[::-1]))

    @property
    def T(self) -> Operator:  # named like the attribute of tensors
        """The transposed map."""
        return Operator(self.transposed, self.matrix)

    def __call__(self, messages: Tensor) -> Tensor:
        """Return the sums (R, D) of ``messages`` (C, D) at the target nodes."""
        out: Tensor = _Product.apply(self.matrix, self.transposed, messages)  # type: ignore[no-untyped-call]
        return out


def count_edges(nodes: Tensor, count: int) -> Tensor:
    """Return how often each node occurs in ``nodes`` (n,), as (count,) int64."""
    return torch.bincount(nodes.long(), minlength=count)


def check_edges(name: str, edges: Tensor, shape: tuple[int, int]) -> None:
    """Raise an error for edges (2, n) with nodes outside a graph of ``shape``.

    Raises:
        ValueError: naming the tensor.
    """
    for side, count in zip(edges, shape, strict=True):
        if side.numel() and not 0 <= int(side.min()) <= int(side.max()) < count:
            raise ValueError(f"{name!r} names a node outside 0..{count - 1}")


def _by_rows(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Build a sparse CSR matrix of ``shape`` from its entries (n,), in any order."""
    order = torch.argsort(rows * shape[1] + columns)
    ends = torch.cumsum(count_edges(rows, shape[0]), 0)  # (R,)
    pointers = torch.cat([ends.new_zeros(1), ends])
    with warnings.catch_warnings():  # the tests cover the operations that are used of this layout
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            pointers, columns[order], values[order], size=shape, check_invariants=True
        )


class _Product(torch.autograd.Function):
    """Sparse times dense; only the dense factor has a gradient."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transposed: Tensor, dense: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ dense

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transposed @ gradients[0]
