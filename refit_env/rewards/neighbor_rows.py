"""Means of the rows of similar users, made for a batch at a time.

The matrix of all users' means has up to M times the values of the rows (ML-1M: 45 MB, a tenth of a training's
memory), and a batch needs few of its rows.

Letters: B users in the batch, U users, I items, K columns, M neighbours, n stored values.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from refit_env.data.rows import SparseRows


class NeighborRows:
    """The mean of the rows of each user's M neighbours; a missing neighbour counts as a row of zeros.

    Example:
        >>> import numpy as np
        >>> matrix = sp.csr_matrix([[1.0, 0], [1, 1], [0, 1]])
        >>> rows = NeighborRows(np.array([[1, 2], [0, -1], [1, -1]]), matrix)
        >>> rows.dense(torch.tensor([0, 1])).tolist()
        [[0.5, 1.0], [0.5, 0.0]]
        >>> rows.at(torch.tensor([0, 1]), torch.tensor([[1], [0]])).tolist()
        [[1.0], [0.5]]
    """

    def __init__(
        self, neighbors: npt.NDArray[Any], matrix: sp.csr_matrix, device: torch.device | str = "cpu"
    ) -> None:
        """Copy the neighbours (U, M), -1 where there is none, and the rows ``matrix`` (U, I) to a device."""
        self.index = torch.as_tensor(neighbors.copy(), device=device)  # it is read-only
        self.rows = SparseRows(matrix, device)

    def dense(self, users: Tensor) -> Tensor:
        """Return the means (B, I) float32 of ``users`` (B,) int64."""
        index, items = self.index[users], self.rows.shape[1]  # (B, M)
        owner, place = torch.nonzero(index >= 0, as_tuple=True)  # at most B * M of each
        row, column, value = self.rows.entries(index[owner, place])  # (n,) each
        out = torch.zeros(users.numel(), items, device=self.rows.device)
        out.view(-1).index_add_(0, owner[row] * items + column, value)
        return out.div_(index.shape[1])  # after the exact sum of counts, so equal shares stay equal

    def at(self, users: Tensor, columns: Tensor) -> Tensor:
        """Return the means of ``users`` (B,) at some columns (B, K), (B, K) float32."""
        index, count = self.index[users], self.index.shape[1]  # (B, M)
        each = columns[:, None].expand(-1, count, -1)  # (B, M, K)
        found = self.rows.at(index.clamp(min=0).flatten(), each.flatten(0, 1)).view(each.shape)
        found = found.masked_fill(index[..., None] < 0, 0.0)  # (B, M, K)
        total = torch.zeros_like(found[:, 0])
        for part in found.unbind(1):  # in the order in which ``dense`` adds
            total += part
        return total.div_(count)
