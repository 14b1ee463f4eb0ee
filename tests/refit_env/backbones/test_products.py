"""Tests of the linear layers: they equal torch's, with and without arrays that collect the gradients."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from refit_env.backbones.few_values import few_values
from refit_env.backbones.products import Linear, WeightGradients, linear

ROWS, INPUTS, EXTRA, OUTPUTS = 6, 2000, 3, 5


@pytest.fixture
def weight() -> nn.Parameter:
    return nn.Parameter(torch.randn(OUTPUTS, INPUTS + EXTRA, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def bias() -> nn.Parameter:
    return nn.Parameter(torch.randn(OUTPUTS, generator=torch.Generator().manual_seed(1)))


def histories(filled: int) -> Tensor:
    """(ROWS, INPUTS) rows of which ``filled`` columns hold a value."""
    generator = torch.Generator().manual_seed(2)
    out = torch.zeros(ROWS, INPUTS)
    columns = torch.randperm(INPUTS, generator=generator)[:filled]
    out[:, columns] = torch.rand(ROWS, filled, generator=generator)
    return out


def loss(x: Tensor, e: Tensor, weight: Tensor, bias: Tensor, plain: bool) -> Tensor:
    """A scalar of three uses of the weight; the first one's input is a constant."""
    if plain:
        out = functional.linear(x, weight[:, :INPUTS], bias)
        out = out + functional.linear(e, weight[:, INPUTS:])
        return (out.tanh() @ weight.detach()[:, :7]).square().sum() + functional.linear(
            out @ weight[:, :INPUTS], weight[:, :INPUTS]
        ).sum()
    out = linear(x, weight, bias) + linear(e, weight, first=INPUTS)
    return (out.tanh() @ weight.detach()[:, :7]).square().sum() + linear(
        out @ weight[:, :INPUTS], weight
    ).sum()


@pytest.mark.parametrize("filled", [40, INPUTS])
@pytest.mark.parametrize("collected", [True, False])
def test_values_and_gradients_are_those_of_torch(
    weight: nn.Parameter, bias: nn.Parameter, filled: int, collected: bool
) -> None:
    x, e = histories(filled), torch.rand(1, EXTRA, requires_grad=True)
    assert (few_values(x) is None) == (filled == INPUTS)
    expected = loss(x, e, weight, bias, plain=True)
    wanted = torch.autograd.grad(expected, [weight, bias, e])
    found = loss(x, e, weight, bias, plain=False)
    with WeightGradients() if collected else nullcontext():
        found.backward()
    assert torch.allclose(found, expected, rtol=1e-5)
    for tensor, gradient in zip((weight, bias, e), wanted, strict=True):
        assert tensor.grad is not None
        assert torch.allclose(tensor.grad, gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


def test_backward_passes_add_to_the_same_array_until_the_gradient_is_cleared(weight: nn.Parameter) -> None:
    x, gradients = histories(40), WeightGradients()
    for _ in range(2):
        with gradients:
            linear(x, weight).sum().backward()
    twice = weight.grad
    assert twice is not None
    expected = torch.zeros_like(weight)
    expected[:, :INPUTS] = 2 * x.sum(0)
    assert torch.allclose(twice, expected, atol=1e-4)
    weight.grad = None
    with gradients:
        linear(x, weight).sum().backward()
    assert weight.grad is twice and torch.allclose(twice, expected / 2, atol=1e-4)


def test_a_gradient_from_elsewhere_is_kept(weight: nn.Parameter) -> None:
    weight.sum().backward()
    with WeightGradients():
        linear(histories(40), weight).sum().backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad[:, INPUTS:], torch.ones(OUTPUTS, EXTRA))
    assert torch.allclose(weight.grad[:, :INPUTS], 1 + histories(40).sum(0).expand(OUTPUTS, -1), atol=1e-4)


def test_a_recomputed_step_adds_to_the_same_weight(weight: nn.Parameter) -> None:
    x = torch.rand(ROWS, INPUTS, requires_grad=True)
    with WeightGradients():
        checkpoint(lambda u: linear(u, weight), x, use_reentrant=False).sum().backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad[:, :INPUTS], x.detach().sum(0).expand(OUTPUTS, -1), atol=1e-4)


def test_an_error_in_a_backward_pass_leaves_no_gradient_and_no_collector(weight: nn.Parameter) -> None:
    with pytest.raises(RuntimeError, match="stop"), WeightGradients():
        linear(histories(40), weight).sum().backward()
        raise RuntimeError("stop")
    assert weight.grad is None and WeightGradients.active is None


def test_the_layer_is_a_linear_layer_of_any_number_of_dimensions() -> None:
    layer = Linear(4, 3)
    x = torch.rand(2, 5, 4, requires_grad=True)
    plain = functional.linear(x, layer.weight, layer.bias)
    assert torch.allclose(layer(x), plain, atol=1e-6)
    [wanted] = torch.autograd.grad(plain.square().sum(), x)
    [found] = torch.autograd.grad(layer(x).square().sum(), x)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_second_derivatives_are_right() -> None:
    """TRPO multiplies by the Hessian of the KL."""
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda *inputs: linear(*inputs).tanh(), (x, weight, bias))


@pytest.mark.parametrize("collected", [True, False])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(("touched", "share"), [(30, 1.0), (INPUTS, 0.05), (INPUTS, 1.0)])
def test_a_derivative_in_few_outputs_gives_the_gradients_of_torch(
    touched: int, share: float, first: int, collected: bool
) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = nn.Parameter(torch.randn(INPUTS, OUTPUTS + EXTRA * first, generator=generator))
    bias = nn.Parameter(torch.zeros(INPUTS))
    x = torch.randn(ROWS, OUTPUTS, generator=generator, requires_grad=True)
    slope = torch.zeros(ROWS, INPUTS)
    slope[:, torch.randperm(INPUTS, generator=generator)[:touched]] = 1.0
    slope *= torch.rand(slope.shape, generator=generator) < share
    assert (few_values(slope) is None) == (touched == INPUTS and share == 1.0)
    functional.linear(x, weight[:, first : first + OUTPUTS], bias).backward(slope)
    expected = [torch.zeros(0) if tensor.grad is None else tensor.grad for tensor in (x, weight, bias)]
    for tensor in (x, weight, bias):
        tensor.grad = None
    with WeightGradients() if collected else nullcontext():
        linear(x, weight, bias, first=first).backward(slope)
    for tensor, gradient in zip((x, weight, bias), expected, strict=True):
        assert tensor.grad is not None
        assert torch.allclose(tensor.grad, gradient, atol=1e-4 * float(gradient.abs().max()))


def test_a_second_derivative_uses_outputs_whose_derivative_is_0() -> None:
    weight = nn.Parameter(torch.ones(INPUTS, OUTPUTS))
    x = torch.ones(ROWS, OUTPUTS, requires_grad=True)
    slope = torch.zeros(ROWS, INPUTS, requires_grad=True)
    [of_x] = torch.autograd.grad(linear(x, weight), x, slope, create_graph=True)
    of_x.sum().backward()
    assert torch.equal(slope.grad, torch.full((ROWS, INPUTS), float(OUTPUTS)))  # type: ignore[arg-type]
