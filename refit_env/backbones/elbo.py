"""The ELBO of the DiffRec family on x0: draws steps, adds noise, weights errors by differences of SNR.

Letters: B rows in a batch, D size of the diffused vector, T steps of training.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from refit_env.backbones.sampling import StepSampler
from refit_env.diffusion import Diffusion

Denoise = Callable[[Tensor, Tensor], Tensor]
"""Noisy vectors (B, D) and their steps (B,) int64 -> predicted clean vectors (B, D)."""


class StepLoss(nn.Module):
    """Draws a step for each row and weights its squared error (DiffRec, arXiv 2304.04971, Eq. 9 and 10).

    The losses stored by the importance sampler are a buffer, so a resumed training equals an uninterrupted
    one.
    """

    weights: Tensor

    def __init__(self, diffusion: Diffusion, reweight: bool = True, importance_sampling: bool = True) -> None:
        """Compute the weights of the steps.

        Args:
            diffusion: the training chain.
            reweight: weight step k by SNR(k-1) - SNR(k) and step 0 by 1; else all steps by 1.
            importance_sampling: draw steps in proportion to their losses; else uniformly.
        """
        super().__init__()
        self.diffusion, self.importance_sampling = diffusion, importance_sampling
        self.sampler = StepSampler(diffusion.num_steps)
        weights = np.append(1.0, diffusion.snr[:-1] - diffusion.snr[1:])  # (T,)
        self.register_buffer(
            "weights", torch.as_tensor(weights if reweight else np.ones_like(weights)), persistent=False
        )

    def forward(
        self, clean: Tensor, target: Tensor, denoise: Denoise, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, and the predictions.

        Args:
            clean: (B, D) vectors that are noised.
            target: (B, D) prediction targets.
            denoise: the network.
            generator: random generator of the steps and the noise.

        Returns:
            The loss, a scalar (of order 100, because of the weights), and the predictions (B, D).
        """
        count, device = clean.shape[0], clean.device
        if self.importance_sampling:
            k, share = self.sampler.draw(count, generator)  # (B,), (B,)
        else:
            k = torch.randint(self.diffusion.num_steps, (count,), generator=generator, device=device)
            share = torch.ones(count, device=device)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        x0 = denoise(self.diffusion.q_sample(clean, k, noise), k)  # (B, D)
        weighted = (target - x0).square().mean(1) * self.weights[k].to(x0.dtype)  # (B,)
        if self.importance_sampling and self.training:
            self.sampler.record(k, weighted)
        return (weighted / share).mean(), x0
