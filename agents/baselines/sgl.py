"""SGL: LightGCN with a contrast of two graphs that each lack some edges (SGL-ED).

At each epoch two graphs are drawn, each with a share of the interactions left out; InfoNCE makes the
vectors of a user (an item) in one resemble those in the other and no one else's in the batch (Wu et al.,
SIGIR 2021, arXiv 2010.10783, Eq. 7 to 12). The others of the contrast are those of the batch, as in
SELFRec's code; the authors' code uses all users and items.

Letters: B pairs in a batch, N interactions, U users, I items, d size of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Tensor

from agents.baselines.base import BaselineConfig
from agents.baselines.embeddings import contrast, user_item_graph
from agents.baselines.learning import Learned
from agents.baselines.lightgcn import LightGCNConfig, LightGraph, layers_of, mean_of
from refit_env.backbones.graphs import Operator
from refit_env.data.dataset import Dataset
from refit_env.settings import Nonnegative, PartialShare


@dataclass(frozen=True)
class SGLConfig(LightGCNConfig):
    """SGL's settings."""

    edge_dropout: PartialShare = 0.1
    """Share of the interactions that each of the two graphs lacks."""
    contrast: Nonnegative = 0.1
    """Weight of the contrast beside BPR."""
    temperature: Annotated[float, Meta(gt=0)] = 0.2
    """Temperature of the contrast."""


class ContrastedGraphs(LightGraph):
    """LightGCN's tables, and two graphs a pass."""

    config: SGLConfig

    def __init__(self, data: Dataset, config: SGLConfig) -> None:
        """Start without the two graphs."""
        super().__init__(data, config)
        self._drawn: list[Operator] = []

    def begin(self, phase: str) -> None:
        """Draw two graphs."""
        sizes = self.users.num_embeddings, self.items.num_embeddings
        self._drawn = []
        for _ in range(2):
            keep = torch.rand(self.num_examples, device=self.pairs.device) >= self.config.edge_dropout
            self._drawn.append(user_item_graph(self.pairs[:, keep], *sizes))

    def loss(self, ids: Tensor, phase: str) -> Tensor:
        """Return LightGCN's loss plus the contrast of the batch's users and items in the two graphs."""
        users, items = (side.unique() for side in self.pairs[:, ids])
        tables = self.users.weight, self.items.weight
        one, other = (mean_of(layers_of(graph, *tables, self.config.layers)) for graph in self._drawn)
        tau = self.config.temperature
        pull = contrast(one[0][users], other[0][users], tau) + contrast(one[1][items], other[1][items], tau)
        return super().loss(ids, phase) + self.config.contrast * pull


class SGL(Learned):
    """SGL-ED: LightGCN with a contrast of two thinned graphs (Wu et al., SIGIR 2021, arXiv 2010.10783)."""

    name: ClassVar[str] = "sgl"
    config_class: ClassVar[type[BaselineConfig]] = SGLConfig
    config: SGLConfig

    def build(self, data: Dataset) -> ContrastedGraphs:
        """The tables and the graphs."""
        return ContrastedGraphs(data, self.config)
