"""Tests of products of inputs that hold few values: they equal the full products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from refit_env.backbones.few_values import FEW_FROM, FewValues, few_values


def histories(rows: int = 5, share: float = 0.02, dtype: torch.dtype = torch.float64) -> Tensor:
    """(rows, FEW_FROM) weights; the first row and one in the middle hold none."""
    generator = torch.Generator().manual_seed(0)
    out = torch.rand(rows, FEW_FROM, generator=generator, dtype=dtype)
    out *= torch.rand(rows, FEW_FROM, generator=generator) < share
    out[0] = out[rows // 2] = 0.0
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_products_equal_those_of_the_whole_input(dtype: torch.dtype) -> None:
    x = histories(dtype=dtype)
    few = few_values(x)
    assert few is not None
    table, g = torch.randn(FEW_FROM, 3, dtype=dtype), torch.randn(5, 3, dtype=dtype)
    assert torch.allclose(few.times(table), x @ table, atol=1e-5)
    columns, inside = few.in_columns(FEW_FROM)
    assert torch.equal(columns, torch.nonzero((x != 0).any(0)).flatten())
    assert torch.equal(few.filled(FEW_FROM), columns)
    assert torch.allclose(inside.times(table[columns]), x @ table, atol=1e-5)
    assert torch.allclose(inside.transposed_times(g, len(columns)), x[:, columns].T @ g, atol=1e-5)


def test_an_input_without_a_value_gives_zeros() -> None:
    few = few_values(torch.zeros(2, FEW_FROM))
    assert few is not None
    assert torch.equal(few.times(torch.ones(FEW_FROM, 3)), torch.zeros(2, 3))
    columns, inside = few.in_columns(FEW_FROM)
    assert inside.transposed_times(torch.ones(2, 3), len(columns)).shape == (0, 3)


def test_only_wide_inputs_with_few_values_are_taken_apart() -> None:
    assert few_values(torch.zeros(2, FEW_FROM - 1)) is None
    assert few_values(torch.zeros(0, FEW_FROM)) is None
    assert few_values(torch.ones(2, FEW_FROM)) is None
    later = torch.zeros(2, FEW_FROM)
    later[1] = 1.0  # the first row alone does not decide
    assert few_values(later) is None
    later[1, : FEW_FROM // 2] = 0.0
    assert few_values(later) is None
    assert few_values(histories(share=0.05)) is not None


def test_the_product_with_a_derivative_has_one_itself() -> None:
    """A second derivative (TRPO) runs through the gradient of the weight."""
    few = FewValues.of(histories(3)[:, :40])
    g = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: few.transposed_times(g, 40), g)
