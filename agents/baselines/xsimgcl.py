"""XSimGCL: LightGCN with noise at each layer, and a contrast of the last with an earlier layer.

In training, layer l + 1 is A E plus noise of length eps with the signs of E: sign(E) * n / |n| eps, n
uniform. The vectors of scores are the means of layers 1..L; InfoNCE contrasts them with layer
``contrast_layer`` (Yu et al., TKDE 2023, arXiv 2209.02544, Eq. 8 to 10). As in SELFRec's code layer 0 is
left out of the mean.

Letters: B pairs in a batch, U users, I items, d size of an embedding, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Tensor
from torch.nn import functional

from agents.baselines.base import BaselineConfig
from agents.baselines.embeddings import bpr, contrast
from agents.baselines.learning import Learned
from agents.baselines.lightgcn import LightGCNConfig, LightGraph, mean_of
from refit_env.data.dataset import Dataset
from refit_env.errors import SettingError
from refit_env.settings import Nonnegative


@dataclass(frozen=True)
class XSimGCLConfig(LightGCNConfig):
    """XSimGCL's settings; the defaults are those of SELFRec for Yelp2018."""

    layers: Annotated[int, Meta(ge=1, le=10)] = 3
    """L."""
    noise: Nonnegative = 0.2
    """eps, the length of the noise that is added to each vector at each layer."""
    contrast: Nonnegative = 0.2
    """Weight of the contrast beside BPR."""
    contrast_layer: Annotated[int, Meta(ge=1, le=10)] = 1
    """The layer that the mean is contrasted with."""
    temperature: Annotated[float, Meta(gt=0)] = 0.15
    """Temperature of the contrast."""

    def check_together(self) -> None:
        """Raise an error for a contrast with a layer that does not exist."""
        if self.contrast_layer > self.layers:
            raise SettingError(
                "contrast_layer", f"must be <= layers={self.layers}, found {self.contrast_layer}"
            )


class NoisyGraph(LightGraph):
    """LightGCN's tables, with noise in training."""

    config: XSimGCLConfig

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Return layers 1..L, each (U, d) and (I, d), with noise in training."""
        users, items, out = self.users.weight, self.items.weight, []
        for _ in range(self.config.layers):
            users, items = self._noisy(self.graph(items)), self._noisy(self.graph.T(users))
            out.append((users, items))
        return out

    def embed(self) -> tuple[Tensor, Tensor]:
        """Return the means of the layers, (U, d) and (I, d)."""
        return mean_of(self.layers())

    def loss(self, ids: Tensor, phase: str) -> Tensor:
        """Return BPR on the means, l2 on layer 0, and the contrast of the batch's users and items."""
        users, items = self.pairs[:, ids]
        others, layers, config = self.negatives(users), self.layers(), self.config
        mean, early = mean_of(layers), layers[config.contrast_layer - 1]
        loss = bpr(mean[0][users], mean[1][items], mean[1][others])
        loss = loss + config.l2 * self.size(users, items, others)
        for side, nodes in enumerate((users.unique(), items.unique())):
            pull = contrast(mean[side][nodes], early[side][nodes], config.temperature)
            loss = loss + config.contrast * pull
        return loss

    def _noisy(self, vectors: Tensor) -> Tensor:
        """Return vectors (n, d) with noise of the same signs."""
        if not self.training:
            return vectors
        noise = functional.normalize(torch.rand_like(vectors), dim=1)
        return vectors + vectors.sign() * noise * self.config.noise


class XSimGCL(Learned):
    """XSimGCL: LightGCN with noise and a contrast of layers (Yu et al., TKDE 2023, arXiv 2209.02544)."""

    name: ClassVar[str] = "xsimgcl"
    config_class: ClassVar[type[BaselineConfig]] = XSimGCLConfig
    config: XSimGCLConfig

    def build(self, data: Dataset) -> NoisyGraph:
        """The tables and the graph."""
        return NoisyGraph(data, self.config)
