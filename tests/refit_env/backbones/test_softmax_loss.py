"""The loss in parts against torch's of the whole matrix."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from refit_env.backbones import softmax_loss as module
from refit_env.backbones.softmax_loss import softmax_loss


@pytest.mark.parametrize("rows_at_a_time", [1, 3, 100])
def test_loss_and_gradients_are_those_of_cross_entropy(
    rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CELLS", {"cpu": rows_at_a_time * 6})
    torch.manual_seed(0)
    states = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)  # (n, d)
    items = (30 * torch.randn(6, 4, dtype=torch.float64)).requires_grad_()  # (I, d) some scores are large
    targets = torch.randint(6, (7,))
    expected = functional.cross_entropy(states @ items.T, targets)
    gradients = torch.autograd.grad(2 * expected, (states, items))
    loss = softmax_loss(states, items, targets)
    assert torch.allclose(loss, expected, rtol=0, atol=1e-10)
    for ours, theirs in zip(torch.autograd.grad(2 * loss, (states, items)), gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-10)
