"""Products of an input that holds few values, such as histories: its zeros are not multiplied.

Letters: N rows, D inputs, H outputs, n values that are not 0, C columns with a value.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

FEW_FROM = 1024
"""Least number of inputs whose values are counted."""
FEW_SHARE = 0.1
"""Largest share of values that are not 0; a full product multiplies more numbers in the same time."""


@dataclass(frozen=True, eq=False)
class FewValues:
    """The values of an input (N, D) that are not 0, row by row.

    Example:
        >>> x = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
        >>> few = FewValues.of(x)
        >>> few.times(torch.tensor([[1.0], [10.0]]))
        tensor([[20.],
                [ 3.]])
    """

    row: Tensor
    """(n,) int64, ascending."""
    column: Tensor
    """(n,) int64."""
    value: Tensor
    """(n,)."""
    rows: int
    """N."""

    @classmethod
    def of(cls, x: Tensor) -> FewValues:
        """Return the values of ``x`` (N, D)."""
        row, column = x.nonzero().unbind(1)  # (n,), (n,)
        return cls(row, column, x[row, column], x.shape[0])

    def times(self, table: Tensor) -> Tensor:
        """Return the product (N, H) with a contiguous ``table`` (D, H)."""
        return _sums(table, self.column, self.value, self.row, self.rows)

    def filled(self, width: int) -> Tensor:
        """Return the columns (C,) of D = ``width`` with a value, ascending."""
        return torch.nonzero(self._has_value(width)).flatten()

    def in_columns(self, width: int) -> tuple[Tensor, FewValues]:
        """Return the columns (C,) of D = ``width`` with a value, and the values by their places in them."""
        there = self._has_value(width)
        place = there.cumsum(0) - 1  # (D,)
        return torch.nonzero(there).flatten(), FewValues(self.row, place[self.column], self.value, self.rows)

    def _has_value(self, width: int) -> Tensor:
        """Return (D,) bool, whether a column has a value."""
        there = torch.zeros(width, dtype=torch.bool, device=self.column.device)
        there[self.column] = True
        return there

    def transposed_times(self, g: Tensor, columns: int) -> Tensor:
        """Return x^T g (C, H) for ``g`` (N, H), of the first ``columns`` columns."""
        order = self.column.argsort(stable=True)  # (n,)
        return _sums(g.contiguous(), self.row[order], self.value[order], self.column[order], columns)


def _sums(table: Tensor, item: Tensor, weight: Tensor, group: Tensor, groups: int) -> Tensor:
    """Return the sums (groups, H) of weighted rows of ``table``; ``group`` (n,) ascends."""
    first = torch.searchsorted(group, torch.arange(groups, device=group.device))  # (groups,)
    out: Tensor = functional.embedding_bag(
        item, table, first, mode="sum", per_sample_weights=weight.to(table.dtype)
    )
    return out


def few_values(x: Tensor) -> FewValues | None:
    """Return the values of ``x`` (N, D) if they are few; None also where D is small, and on a GPU.

    There the search would cost more than it saves.

    Example:
        >>> few_values(torch.ones(2, 3)) is None
        True
    """
    if x.is_cuda or x.shape[1] < FEW_FROM or not x.shape[0]:
        return None
    if int(torch.count_nonzero(x[0])) > FEW_SHARE * x.shape[1]:
        return None
    found = FewValues.of(x)
    return found if found.value.numel() <= FEW_SHARE * x.numel() else None
