"""Mult-DAE: a denoising autoencoder of rows with a multinomial likelihood.

The row, scaled to length 1 and with items dropped out, goes through tanh layers to softmax logits; the
loss is -sum_i x_i log pi_i (Liang et al., WWW 2018, arXiv 1802.05814, Eq. 2 and Sec. 2.3).

Letters: B users in a batch, I items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from agents.baselines.autoencoders import AutoencoderConfig, RowModel, dropped_out, layers, multinomial
from agents.baselines.base import BaselineConfig
from agents.baselines.learning import Learned
from refit_env.data.dataset import Dataset
from refit_env.settings import Nonnegative, Size


@dataclass(frozen=True)
class MultDAEConfig(AutoencoderConfig):
    """Mult-DAE's settings."""

    hidden: tuple[Size, ...] = ()
    """Sizes of the encoder's layers before the code; the paper's best model has none."""
    weight_decay: Nonnegative = 0.0
    """Adam's weight decay."""


class DenoisingAutoencoder(RowModel):
    """Encoder and decoder."""

    def __init__(self, data: Dataset, config: MultDAEConfig) -> None:
        """Initialise the layers."""
        super().__init__(data, config)
        sizes = [data.num_items, *config.hidden, config.latent]
        self.net = nn.Sequential(layers(sizes), nn.Tanh(), layers(sizes[::-1]))

    def loss(self, ids: Tensor, phase: str) -> Tensor:
        """Return the mean negative log-likelihood of the rows."""
        rows = self.rows(self.some[ids])  # (B, I)
        return multinomial(self.logits(rows), rows).mean()

    def logits(self, rows: Tensor) -> Tensor:
        """(B, I)."""
        out: Tensor = self.net(dropped_out(rows, self.config.dropout, self.training))
        return out

    def scores(self, users: Tensor) -> Tensor:
        """Return the logits (B, I) of whole rows."""
        return self.logits(self.rows(users))


class MultDAE(Learned):
    """Mult-DAE: a denoising autoencoder of rows (Liang et al., WWW 2018, arXiv 1802.05814)."""

    name: ClassVar[str] = "mult-dae"
    config_class: ClassVar[type[BaselineConfig]] = MultDAEConfig
    config: MultDAEConfig

    def build(self, data: Dataset) -> DenoisingAutoencoder:
        """The layers."""
        return DenoisingAutoencoder(data, self.config)
