"""RecVAE: Mult-VAE with a composite prior, weights of the KL by user, and passes for encoder and decoder.

The loss is -sum_i x_i log pi_i(z) + gamma n_u (log q(z | x) - log p(z | x)), z drawn from q; the prior p
is a mixture of N(0, 1) (3/20), of the posterior of the last epoch's encoder (3/4) and of N(0, e^10)
(1/10). An epoch trains the encoder three times on rows with items dropped out, then the decoder once on
whole rows (Shenbin et al., WSDM 2020, arXiv 1912.11160, Eq. 7 to 10). The defaults are the authors' five
densely connected layers of 600.

Letters: B users in a batch, I items, L size of the code.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional

from agents.baselines.autoencoders import AutoencoderConfig, RowModel, dropped_out, multinomial
from agents.baselines.base import BaselineConfig
from agents.baselines.learning import Learned
from refit_env.data.dataset import Dataset
from refit_env.settings import Nonnegative, Size

WEIGHTS = (3 / 20, 3 / 4, 1 / 10)
"""Of the prior's parts: standard, last epoch's posterior, wide."""
WIDE = 10.0
"""Log-variance of the wide part."""


@dataclass(frozen=True)
class RecVAEConfig(AutoencoderConfig):
    """RecVAE's settings."""

    hidden: tuple[Size, ...] = (600,)
    """Width of the encoder's layers, one number; the decoder is one linear layer."""
    depth: Annotated[int, Meta(ge=1, le=20)] = 5
    """Layers of the encoder, each with the sum of all before it as its input."""
    gamma: Nonnegative = 0.005
    """Weight of the KL of a user with one item."""
    learning_rate: Annotated[float, Meta(gt=0, le=10)] = 5e-4
    """Learning rate of Adam."""


class DenseEncoder(nn.Module):
    """Layers that each read the sum of all before them."""

    def __init__(self, items: int, width: int, depth: int, latent: int) -> None:
        """Initialise the layers."""
        super().__init__()
        self.first = nn.Linear(items, width)
        self.others = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=0.1) for _ in range(depth))
        self.out = nn.Linear(width, 2 * latent)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and log-variances of the codes, each (B, L), of rows (B, I) of length 1."""
        known = self.norms[0](functional.silu(self.first(rows)))  # (B, width)
        for linear, norm in zip(self.others, self.norms[1:], strict=True):
            known = known + norm(functional.silu(linear(known) + known))
        mean, logvar = self.out(known).chunk(2, 1)
        return mean, logvar


class CompositeVAE(RowModel):
    """Encoder, its copy of the last epoch, and decoder."""

    phases: ClassVar[tuple[str, ...]] = ("encoder", "encoder", "encoder", "decoder")
    config: RecVAEConfig

    def __init__(self, data: Dataset, config: RecVAEConfig) -> None:
        """Initialise the layers."""
        super().__init__(data, config)
        self.encoder = DenseEncoder(data.num_items, config.hidden[0], config.depth, config.latent)
        self.decoder = nn.Linear(config.latent, data.num_items)
        self.last = copy.deepcopy(self.encoder).requires_grad_(False)

    def trained_in(self, phase: str) -> Iterable[nn.Parameter]:
        """Return the encoder's or the decoder's weights."""
        return (self.encoder if phase == "encoder" else self.decoder).parameters()

    def begin(self, phase: str) -> None:
        """Copy the encoder to the prior before the decoder is trained."""
        if phase == "decoder":
            self.last.load_state_dict(self.encoder.state_dict())

    def loss(self, ids: Tensor, phase: str) -> Tensor:
        """Return the mean negative ELBO; the decoder's pass has no dropout."""
        rows = self.rows(self.some[ids])  # (B, I)
        input_ = dropped_out(rows, self.config.dropout, phase == "encoder")
        mean, logvar = self.encoder(input_)
        drawn = mean + torch.randn_like(mean) * (0.5 * logvar).exp()  # (B, L)
        fit = multinomial(self.decoder(drawn), rows)  # (B,)
        with torch.no_grad():
            before = self.last(functional.normalize(rows, dim=1))
        gap = (log_normal(drawn, mean, logvar) - log_prior(drawn, *before)).sum(1)  # (B,)
        return (fit + self.config.gamma * rows.sum(1) * gap).mean()

    def scores(self, users: Tensor) -> Tensor:
        """Return the logits (B, I) of the code's mean."""
        out: Tensor = self.decoder(self.encoder(functional.normalize(self.rows(users), dim=1))[0])
        return out


def log_normal(at: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Return the elementwise log-density of N(mean, exp(logvar)).

    Example:
        >>> log_normal(torch.zeros(1), torch.zeros(1), torch.zeros(1)).round(decimals=4)
        tensor([-0.9189])
    """
    return -0.5 * (logvar + math.log(2 * math.pi) + (at - mean).square() / logvar.exp())


def log_prior(at: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Return the composite prior's log-density (B, L), with the last posterior N(mean, exp(logvar))."""
    zero = torch.zeros_like(at)
    parts = ((zero, zero), (mean, logvar), (zero, zero + WIDE))
    logs = [math.log(w) + log_normal(at, *part) for w, part in zip(WEIGHTS, parts, strict=True)]
    return torch.logsumexp(torch.stack(logs), 0)


class RecVAE(Learned):
    """RecVAE: Mult-VAE with a composite prior (Shenbin et al., WSDM 2020, arXiv 1912.11160)."""

    name: ClassVar[str] = "recvae"
    config_class: ClassVar[type[BaselineConfig]] = RecVAEConfig
    config: RecVAEConfig

    def build(self, data: Dataset) -> CompositeVAE:
        """The layers."""
        return CompositeVAE(data, self.config)
