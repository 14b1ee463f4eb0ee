"""The DiffRec family's ELBO on x0: steps drawn, vectors noised, errors weighed by the SNR they have to win.

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
    """Draws a step for each row and weighs its squared error (DiffRec, arXiv 2304.04971, Eq. 9 and 10).

    The memory of the importance sampler is a buffer, so a resumed training repeats an unbroken one.
    """

    weights: Tensor

    def __init__(self, diffusion: Diffusion, reweight: bool = True, importance_sampling: bool = True) -> None:
        """Prepare.

        Args:
            diffusion: the chain of training.
            reweight: weigh step k by SNR(k-1) - SNR(k), step 0 by 1; else all steps by 1.
            importance_sampling: draw steps by the size of their losses; else uniformly.
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
        """The loss of a batch.

        Args:
            clean: (B, D) what is noised.
            target: (B, D) what is to be predicted.
            denoise: the network.
            generator: source of the steps and of the noise.

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
            self.sampler.remember(k, weighted)
        return (weighted / share).mean(), x0
