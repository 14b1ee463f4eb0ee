"""Mult-VAE: a variational autoencoder of rows with a multinomial likelihood.

q(z | x) = N(mu(x), diag s(x)^2) of the row, scaled to length 1 and with items dropped out; the loss is
-sum_i x_i log pi_i(z) + beta KL(q(z | x) | N(0, 1)), beta rising to its cap in proportion to the steps
(Liang et al., WWW 2018, arXiv 1802.05814, Eq. 5 to 8). The cap is reached after ``anneal`` epochs instead
of 200,000 steps.

Letters: B users in a batch, I items, L size of the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agents.baselines.autoencoders import AutoencoderConfig, RowModel, dropped_out, layers, multinomial
from agents.baselines.base import BaselineConfig
from agents.baselines.learning import Learned
from refit_env.data.dataset import Dataset
from refit_env.settings import Nonnegative, Size


@dataclass(frozen=True)
class MultVAEConfig(AutoencoderConfig):
    """Mult-VAE's settings."""

    beta: Nonnegative = 0.2
    """The KL's weight at the end of the annealing."""
    anneal: Size = 50
    """Epochs in which the weight rises from 0."""


class VariationalAutoencoder(RowModel):
    """Encoder, which returns means and log-variances, and decoder."""

    config: MultVAEConfig
    epoch: Tensor

    def __init__(self, data: Dataset, config: MultVAEConfig) -> None:
        """Initialise the layers."""
        super().__init__(data, config)
        sizes = [data.num_items, *config.hidden]
        self.encoder = layers([*sizes, 2 * config.latent])
        self.decoder = layers([config.latent, *sizes[::-1]])
        self.register_buffer("epoch", torch.zeros(()), persistent=False)

    def begin(self, phase: str) -> None:
        """Count the epochs."""
        self.epoch += 1

    def code(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the code's means and log-variances, each (B, L), of rows (B, I)."""
        mean, logvar = self.encoder(dropped_out(rows, self.config.dropout, self.training)).chunk(2, 1)
        return mean, logvar

    def loss(self, ids: Tensor, phase: str) -> Tensor:
        """Return the mean negative ELBO with the annealed weight."""
        rows = self.rows(self.some[ids])  # (B, I)
        mean, logvar = self.code(rows)
        drawn = mean + torch.randn_like(mean) * (0.5 * logvar).exp()  # (B, L)
        beta = self.config.beta * (self.epoch / self.config.anneal).clamp(max=1.0)
        return (multinomial(self.decoder(drawn), rows) + beta * divergence(mean, logvar)).mean()

    def scores(self, users: Tensor) -> Tensor:
        """Return the logits (B, I) of the code's mean."""
        out: Tensor = self.decoder(self.code(self.rows(users))[0])
        return out


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mean, exp(logvar)) | N(0, 1)) (B,) of codes (B, L).

    Example:
        >>> divergence(torch.ones(1, 2), torch.zeros(1, 2))
        tensor([1.])
    """
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum(1)


class MultVAE(Learned):
    """Mult-VAE: a variational autoencoder of rows (Liang et al., WWW 2018, arXiv 1802.05814)."""

    name: ClassVar[str] = "mult-vae"
    config_class: ClassVar[type[BaselineConfig]] = MultVAEConfig
    config: MultVAEConfig

    def build(self, data: Dataset) -> VariationalAutoencoder:
        """The layers."""
        return VariationalAutoencoder(data, self.config)
