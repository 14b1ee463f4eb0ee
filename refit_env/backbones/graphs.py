"""Graphs as sparse linear maps: messages from one side's nodes to the other's, with their gradients.

Letters: R nodes that are told, C nodes that tell, n edges, D numbers of a message.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

Result = TypeVar("Result")


@dataclass(frozen=True)
class Operator:
    """A sparse matrix and its transpose, both stored by rows.

    Torch multiplies by the transpose of a matrix stored by rows many times slower than by the matrix, and its
    own gradient makes that transpose at every step; here both are made once.

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
        """The symmetrically normalised adjacency D_r^-1/2 A D_c^-1/2 (Kipf and Welling, ICLR 2017, Eq. 2).

        Args:
            edges: (2, n) integer: who is told, and who tells.
            shape: R and C.
            degrees: (R,) and (C,) that divide; None counts the edges. A node without edges counts 1.
            dtype: of the values.

        Example:
            >>> edges = torch.tensor([[0, 0, 1], [0, 1, 1]])
            >>> Operator.symmetric(edges, (2, 2)).matrix.to_dense()
            tensor([[0.7071, 0.5000],
                    [0.0000, 0.7071]])
        """
        told, tells = edges[0].long(), edges[1].long()  # (n,)
        if degrees is None:
            degrees = count_edges(told, shape[0]), count_edges(tells, shape[1])
        left, right = (degree.clamp(min=1).to(dtype) for degree in degrees)  # (R,), (C,)
        values = (left[told] * right[tells]).rsqrt()  # (n,)
        return cls(_by_rows(told, tells, values, shape), _by_rows(tells, told, values, (shape[1], shape[0])))

    @property
    def T(self) -> Operator:  # as tensors call it
        """The map the other way."""
        return Operator(self.transposed, self.matrix)

    def __call__(self, messages: Tensor) -> Tensor:
        """What the nodes are told, (R, D), of ``messages`` (C, D)."""
        out: Tensor = _Product.apply(self.matrix, self.transposed, messages)  # type: ignore[no-untyped-call]
        return out


class Latest(Generic[Result]):
    """The newest result of a computation, kept while the tensors that it was made from stay what they are.

    A copy begins with nothing, as its tensors are others.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._key: tuple[Any, ...] | None = None
        self._value: Result | None = None

    def get(self, sources: Sequence[Tensor], make: Callable[[], Result], extra: Hashable = None) -> Result:
        """The result for the ``sources``, known by ``_identity``, and ``extra``."""
        key = (extra, *(_identity(source) for source in sources))
        if self._value is None or self._key != key:
            self._key, self._value = key, make()
        return self._value

    def __deepcopy__(self, memo: dict[int, Any]) -> Latest[Result]:
        """Another one, empty."""
        return Latest()

    def __reduce__(self) -> tuple[type[Latest[Result]], tuple[()]]:
        """Pickled as an empty one."""
        return Latest, ()


_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _identity(source: Tensor) -> tuple[Hashable, ...]:
    """What changes with a tensor.

    Torch counts changes, but not those of a fused optimiser's step: of weights, their bits are summed, too.
    """
    seen = (source.data_ptr(), source._version, source.dtype, source.device, source.shape)
    if not isinstance(source, Parameter):
        return seen
    return *seen, int(source.detach().view(_BITS[source.element_size()]).sum(dtype=torch.int64))


def count_edges(nodes: Tensor, count: int) -> Tensor:
    """(count,) int64 how often each node stands in ``nodes`` (n,)."""
    return torch.bincount(nodes.long(), minlength=count)


def check_edges(name: str, edges: Tensor, shape: tuple[int, int]) -> None:
    """Refuse edges (2, n) of nodes that are not in a graph of ``shape``.

    Raises:
        ValueError: naming them.
    """
    for side, count in zip(edges, shape, strict=True):
        if side.numel() and not 0 <= int(side.min()) <= int(side.max()) < count:
            raise ValueError(f"{name!r} names a node outside 0..{count - 1}")


def _by_rows(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A sparse CSR matrix of ``shape`` from its entries (n,), in any order."""
    order = torch.argsort(rows * shape[1] + columns)
    ends = torch.cumsum(count_edges(rows, shape[0]), 0)  # (R,)
    pointers = torch.cat([ends.new_zeros(1), ends])
    with warnings.catch_warnings():  # torch calls the layout a beta; what is used of it is tested here
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
