"""The shared ELBO equals DiffRec's, which is tested against NumPy."""

from __future__ import annotations

import numpy as np
import torch

from refit_env.backbones.diffrec import DiffRec, DiffRecConfig
from refit_env.backbones.elbo import StepLoss

CONFIG = DiffRecConfig(hidden=(3,), num_steps=5, noise_scale=0.1, noise_min=0.01, noise_max=0.5)


def test_it_equals_diffrecs_with_the_same_stored_losses() -> None:
    torch.manual_seed(0)
    model = DiffRec(7, CONFIG)
    loss = StepLoss(model.diffusion)
    rows = (torch.rand(40, 7) < 0.4).float()
    for round_ in range(3):
        torch.manual_seed(round_)  # random numbers of the dropout
        expected = model.elbo_loss(rows, rows, torch.Generator().manual_seed(round_))
        torch.manual_seed(round_)
        found, x0 = loss(rows, rows, model.predict_x0, torch.Generator().manual_seed(round_))
        assert torch.allclose(found, expected) and x0.shape == rows.shape
        assert torch.allclose(loss.sampler.losses, model.sampler.losses)


def test_plain_errors_are_the_mean_square() -> None:
    loss = StepLoss(CONFIG.diffusion(), reweight=False, importance_sampling=False)
    clean = torch.ones(3, 4)
    found, _ = loss(clean, clean, lambda u, k: torch.zeros_like(u))
    assert float(found) == 1.0
    assert not loss.sampler.seen.any()
    loss.eval()
    assert np.array_equal(loss.weights.numpy(), np.ones(5))
