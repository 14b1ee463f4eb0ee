"""Linear layers whose weight gradients are added into one array instead of being allocated at every use.

A chain uses each weight T times. Autograd allocates a gradient of the weight's size for every use and adds
them: for tens of thousands of items the kernel then clears hundreds of MiB for each step of a chain. Within
``WeightGradients`` each use is one product that adds to the array in place (BLAS's ``beta = 1``).

A product of an array with many columns of 0 uses the other columns alone: those of an input that needs no
derivative (histories), and those of the derivative in the outputs (of a list's score in the items' scores).

Letters: N rows, D inputs, H outputs, C columns of the input with a value that is not 0, R outputs with a
derivative that is not 0.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

SPARSE_FROM = 1024
"""Least number of inputs of which empty columns are searched."""
SPARSE_SHARE = 0.6
"""Largest share of columns with values for which the product is made with these columns alone."""


class WeightGradients:
    """Arrays for the gradients of weights, which ``linear`` adds to during a backward pass.

    The arrays are kept for the next use. One backward pass at a time can use them.

    Example:
        >>> weight, x = nn.Parameter(torch.ones(1, 2)), torch.ones(3, 2)
        >>> gradients = WeightGradients()
        >>> with gradients:
        ...     (linear(x, weight) + linear(2 * x, weight)).sum().backward()
        >>> weight.grad
        tensor([[9., 9.]])
    """

    active: WeightGradients | None = None

    def __init__(self) -> None:
        """Begin with no arrays."""
        self._arrays: dict[nn.Parameter, Tensor] = {}
        self._written: set[nn.Parameter] = set()

    def __enter__(self) -> WeightGradients:
        """Collect the gradients of a backward pass from now on."""
        self._written = {weight for weight, array in self._arrays.items() if weight.grad is array}
        WeightGradients.active = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Make the arrays the weights' ``grad``, or add them to one that was there."""
        WeightGradients.active = None
        if error is not None:
            return
        for weight in self._written:
            if weight.grad is None:
                weight.grad = self._arrays[weight]
            elif weight.grad is not self._arrays[weight]:
                weight.grad += self._arrays[weight]

    def release(self) -> None:
        """Free the arrays."""
        self._arrays.clear()

    def add(
        self,
        weight: nn.Parameter,
        first: int,
        gradient: Tensor,
        x: Tensor,
        columns: Tensor | None,
        rows: Tensor | None = None,
    ) -> None:
        """Add gradient^T x to the gradient of a weight (H, ...).

        Args:
            weight: the weight.
            first: the column of the weight that belongs to the first input.
            gradient: (N, H) the derivative in the outputs, or in some (N, R) of them.
            x: (N, D) inputs, or the columns (N, C) of them.
            columns: (C,) the columns; None for all.
            rows: (R,) the outputs; None for all. Only without ``columns``.
        """
        if weight not in self._arrays:
            self._arrays[weight] = torch.empty_like(weight)
        array = self._arrays[weight]
        width = x.shape[1]
        part = array[:, first : first + width]
        if weight not in self._written:
            self._written.add(weight)
            if columns is None and rows is None and width == array.shape[1]:
                torch.mm(gradient.t(), x, out=array)
                return
            array.zero_()
        if rows is not None:
            part.index_add_(0, rows, gradient.t() @ x)
        elif columns is None:
            part.addmm_(gradient.t(), x)
        else:
            array.index_add_(1, columns + first, gradient.t() @ x)


class Linear(nn.Linear):
    """``nn.Linear``, computed by ``linear``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return input W^T + b, (..., H)."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, first: int = 0) -> Tensor:
    """Return x W^T + b for a range of the columns of W, those from ``first`` on.

    Where the input needs no derivative and most of its columns are 0 (a batch of histories), the products use
    the other columns alone.

    Args:
        x: (..., D).
        weight: (H, >= first + D).
        bias: (H,) or None.
        first: the column of the weight that belongs to the first input.

    Returns:
        (..., H).

    Example:
        >>> linear(torch.ones(1, 2), torch.tensor([[1.0, 2.0, 3.0]]), first=1)
        tensor([[5.]])
    """
    if torch.is_autocast_enabled(x.device.type) or torch.compiler.is_exporting():
        part = weight[:, first : first + x.shape[-1]]
        return nn.functional.linear(x, part, bias)
    out: Tensor = _Linear.apply(x, weight, bias, first)  # type: ignore[no-untyped-call]
    return out


class _Linear(torch.autograd.Function):
    """See ``linear``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, first: int) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])  # (N, D)
        part = weight[:, first : first + flat.shape[1]]  # (H, D)
        columns = None if ctx.needs_input_grad[0] else filled_columns(flat)  # (C,)
        if columns is not None:
            flat, part = flat.index_select(1, columns), part.index_select(1, columns)
        out = torch.mm(flat, part.t()) if bias is None else torch.addmm(bias, flat, part.t())  # (N, H)
        # A second derivative needs the input itself; columns are chosen only where it has no derivative.
        ctx.save_for_backward(x if columns is None else flat, weight, columns)
        ctx.first, ctx.shape, ctx.has_bias = first, x.shape, bias is not None
        # A recomputed step (``torch.utils.checkpoint``) returns other tensors than it saved.
        ctx.parameter = weight if isinstance(weight, nn.Parameter) else None
        return out.view(*x.shape[:-1], out.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        kept, weight, columns = ctx.saved_tensors
        flat = kept.reshape(-1, kept.shape[-1])  # (N, D) or (N, C)
        g = gradient.reshape(-1, gradient.shape[-1])  # (N, H)
        of_x = of_weight = of_bias = None
        if ctx.has_bias and ctx.needs_input_grad[2]:
            of_bias = g.sum(0)
        plain = columns is None and not torch.is_grad_enabled()  # a second derivative needs all of g
        rows = filled_columns(g) if plain else None  # (R,)
        g = g if rows is None else g.index_select(1, rows)  # (N, R)
        if ctx.needs_input_grad[0]:
            part = weight[:, ctx.first : ctx.first + ctx.shape[-1]]  # (H, D)
            of_x = (g @ (part if rows is None else part.index_select(0, rows))).view(ctx.shape)
        if ctx.needs_input_grad[1]:
            gradients = WeightGradients.active
            if gradients is not None and ctx.parameter is not None:
                gradients.add(ctx.parameter, ctx.first, g, flat, columns, rows)
            else:
                of_weight = _gradient(weight, ctx.first, g, flat, columns, rows)
        return of_x, of_weight, of_bias, None


def _gradient(
    weight: Tensor, first: int, g: Tensor, x: Tensor, columns: Tensor | None, rows: Tensor | None
) -> Tensor:
    """Return the gradient of the whole weight, see ``WeightGradients.add``."""
    if columns is None and rows is None and x.shape[1] == weight.shape[1]:
        return g.t() @ x
    out = torch.zeros_like(weight)
    if rows is not None:
        out[:, first : first + x.shape[1]].index_copy_(0, rows, g.t() @ x)
        return out
    where = torch.arange(x.shape[1], device=x.device) if columns is None else columns
    return out.index_copy_(1, where + first, g.t() @ x)


def filled_columns(x: Tensor) -> Tensor | None:
    """Return the columns (C,) of ``x`` (N, D) that hold a value; None where these are most, or D is small.

    On a GPU always None: the search would cost more than it saves.

    Example:
        >>> filled_columns(torch.ones(2, 3)) is None
        True
    """
    if x.is_cuda or x.shape[1] < SPARSE_FROM or not x.shape[0]:
        return None
    if int(torch.count_nonzero(x[0])) > SPARSE_SHARE * x.shape[1]:
        return None
    columns = torch.nonzero((x != 0).any(0)).flatten()
    return columns if columns.numel() <= SPARSE_SHARE * x.shape[1] else None
