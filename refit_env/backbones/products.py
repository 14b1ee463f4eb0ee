"""Linear layers whose weight gradients are added into one array instead of being allocated at every use.

A chain uses each weight T times. Autograd allocates a gradient of the weight's size for every use and adds
them: for tens of thousands of items the kernel then clears hundreds of MiB for each step of a chain. Within
``WeightGradients`` each use is one product that adds to the array in place (BLAS's ``beta = 1``).

An input that needs no derivative and holds few values (histories) is multiplied value by value
(``refit_env.backbones.few_values``), and so is a derivative in the outputs with few values (that of a list's
score in the items' scores).

Letters: N rows, D inputs, H outputs, C columns of the input with a value that is not 0, R outputs with a
derivative that is not 0.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from refit_env.backbones.few_values import FewValues, few_values

SPARSE_SHARE = 0.6
"""Largest share of outputs with a derivative for which a weight's gradient is computed for these alone."""


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
        self, weight: nn.Parameter, first: int, gradient: Tensor, x: Tensor, rows: Tensor | None = None
    ) -> None:
        """Add gradient^T x to the gradient of a weight (H, ...).

        Args:
            weight: the weight.
            first: the column of the weight that belongs to the first input.
            gradient: (N, H) the derivative in the outputs, or in some (N, R) of them.
            x: (N, D) inputs.
            rows: (R,) the outputs; None for all.
        """
        array, end = self._array(weight), first + x.shape[1]
        part = array[:, first:end]
        if weight not in self._written:
            self._written.add(weight)
            if rows is None:
                array[:, :first].zero_()
                array[:, end:].zero_()
                part.addmm_(gradient.t(), x, beta=0)  # written, not read
                return
            array.zero_()
        if rows is None:
            part.addmm_(gradient.t(), x)
        else:
            part.index_add_(0, rows, gradient.t() @ x)

    def add_columns(self, weight: nn.Parameter, columns: Tensor, gradient: Tensor) -> None:
        """Add ``gradient`` (H, C) to the ``columns`` (C,) of the gradient of a weight (H, ...)."""
        array = self._array(weight)
        if weight not in self._written:
            self._written.add(weight)
            array.zero_()
        array.index_add_(1, columns, gradient)

    def _array(self, weight: nn.Parameter) -> Tensor:
        """Return the array of a weight's gradient."""
        if weight not in self._arrays:
            self._arrays[weight] = torch.empty_like(weight)
        return self._arrays[weight]


class Linear(nn.Linear):
    """``nn.Linear``, computed by ``linear``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return input W^T + b, (..., H)."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, first: int = 0) -> Tensor:
    """Return x W^T + b for a range of the columns of W, those from ``first`` on.

    Of an input that needs no derivative and holds few values (a batch of histories) no zero is multiplied.

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
        few = None if ctx.needs_input_grad[0] else few_values(flat)
        if few is None:
            out = torch.mm(flat, part.t()) if bias is None else torch.addmm(bias, flat, part.t())  # (N, H)
            ctx.save_for_backward(x, weight)
        else:
            columns, few = few.in_columns(flat.shape[1])  # (C,)
            out = few.times(part.t().index_select(0, columns))  # (N, H)
            out = out if bias is None else out.add_(bias)
            ctx.save_for_backward(few.row, weight, few.column, few.value, columns)
        ctx.first, ctx.shape, ctx.has_bias = first, x.shape, bias is not None
        # A recomputed step (``torch.utils.checkpoint``) returns other tensors than it saved.
        ctx.parameter = weight if isinstance(weight, nn.Parameter) else None
        return out.view(*x.shape[:-1], out.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        g = gradient.reshape(-1, gradient.shape[-1])  # (N, H)
        of_x = of_weight = of_bias = None
        if ctx.has_bias and ctx.needs_input_grad[2]:
            of_bias = g.sum(0)
        gradients = WeightGradients.active if ctx.parameter is not None else None
        x, weight, *few = ctx.saved_tensors  # read once: a recomputed step allows no more
        if few:  # their derivative is not needed
            if ctx.needs_input_grad[1]:
                of_weight = _of_few(ctx, x, weight, few, g, gradients)
            return None, of_weight, of_bias, None
        flat = x.reshape(-1, x.shape[-1])  # (N, D)
        # A second derivative needs all of g.
        values = None if torch.is_grad_enabled() else few_values(g)
        if ctx.needs_input_grad[0]:
            part = weight[:, ctx.first : ctx.first + ctx.shape[-1]]  # (H, D)
            taken = values if part.is_contiguous() else None
            of_x = (g @ part if taken is None else taken.times(part)).view(ctx.shape)
        rows = None if values is None else _sparse(values.filled(g.shape[1]), g.shape[1])  # (R,)
        g = g if rows is None else g.index_select(1, rows)  # (N, R)
        if ctx.needs_input_grad[1]:
            if gradients is not None:
                gradients.add(ctx.parameter, ctx.first, g, flat, rows)
            else:
                of_weight = _gradient(weight, ctx.first, g, flat, rows)
        return of_x, of_weight, of_bias, None


def _of_few(
    ctx: Any, row: Tensor, weight: Tensor, few: list[Tensor], g: Tensor, gradients: WeightGradients | None
) -> Tensor | None:
    """Return the gradient of the whole weight from that of a few values' product; None if it was added."""
    place, value, columns = few
    out = (
        FewValues(row, place, value, g.shape[0]).transposed_times(g, columns.numel()).t().contiguous()
    )  # (H, C)
    if gradients is None:
        return torch.zeros_like(weight).index_copy(1, columns + ctx.first, out)
    gradients.add_columns(ctx.parameter, columns + ctx.first, out)
    return None


def _gradient(weight: Tensor, first: int, g: Tensor, x: Tensor, rows: Tensor | None) -> Tensor:
    """Return the gradient of the whole weight, see ``WeightGradients.add``."""
    if rows is None and x.shape[1] == weight.shape[1]:
        return g.t() @ x
    out = torch.zeros_like(weight)
    if rows is not None:
        out[:, first : first + x.shape[1]].index_copy_(0, rows, g.t() @ x)
        return out
    return out.index_copy_(1, torch.arange(x.shape[1], device=x.device) + first, g.t() @ x)


def _sparse(columns: Tensor, width: int) -> Tensor | None:
    """Return some columns (C,) of ``width`` if a product with these alone is faster; else None."""
    return columns if columns.numel() <= SPARSE_SHARE * width else None
