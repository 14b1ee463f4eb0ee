"""NGCF: a graph convolution with weights and products of neighbours.

With E the embeddings of users and items and A their normalised graph, layer l + 1 is
LeakyReLU((E + A E) W_1 + (A E * E) W_2); the vectors of scores are layer 0 and the normalised others side by
side (Wang et al., SIGIR 2019, arXiv 1905.08108, Eq. 7 and 9). As in the authors' code, messages are dropped
after each layer; node dropout, which the code of the tables leaves at 0 for some sets, is left out.

Letters: U users, I items, d size of an embedding, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional

from agents.baselines.base import BaselineConfig
from agents.baselines.learning import Learned
from agents.baselines.lightgcn import LightGCNConfig, LightGraph
from refit_env.data.dataset import Dataset
from refit_env.settings import PartialShare


@dataclass(frozen=True)
class NGCFConfig(LightGCNConfig):
    """NGCF's settings."""

    dropout: PartialShare = 0.1
    """Dropout of messages, after each layer."""
    layers: Annotated[int, Meta(ge=1, le=10)] = 3
    """L, number of layers, each of the embedding's size."""


class NeuralGraph(LightGraph):
    """The tables, the graph and two matrices a layer."""

    config: NGCFConfig

    def __init__(self, data: Dataset, config: NGCFConfig) -> None:
        """Initialise the matrices."""
        super().__init__(data, config)
        size = config.embedding
        self.sums = nn.ModuleList(nn.Linear(size, size) for _ in range(config.layers))
        self.products = nn.ModuleList(nn.Linear(size, size) for _ in range(config.layers))

    def embed(self) -> tuple[Tensor, Tensor]:
        """Return the concatenated layers, (U, (L + 1) d) and (I, (L + 1) d)."""
        users, items = self.users.weight, self.items.weight
        out = [(users, items)]
        for sums, products in zip(self.sums, self.products, strict=True):
            near = self.graph(items), self.graph.T(users)
            users, items = (
                self._layer(own, sent, sums, products) for own, sent in zip((users, items), near, strict=True)
            )
            out.append((functional.normalize(users, dim=1), functional.normalize(items, dim=1)))
        of_users, of_items = zip(*out, strict=True)
        return torch.cat(of_users, 1), torch.cat(of_items, 1)

    def _layer(self, own: Tensor, near: Tensor, sums: nn.Module, products: nn.Module) -> Tensor:
        """Return the next layer (n, d) of nodes (n, d) with neighbours' sums ``near`` (n, d)."""
        mixed = functional.leaky_relu(sums(own + near) + products(near * own), 0.2)
        return functional.dropout(mixed, self.config.dropout, self.training)


class NGCF(Learned):
    """NGCF: a graph convolution with weights (Wang et al., SIGIR 2019, arXiv 1905.08108)."""

    name: ClassVar[str] = "ngcf"
    config_class: ClassVar[type[BaselineConfig]] = NGCFConfig
    config: NGCFConfig

    def build(self, data: Dataset) -> NeuralGraph:
        """The tables, the graph and the matrices."""
        return NeuralGraph(data, self.config)
