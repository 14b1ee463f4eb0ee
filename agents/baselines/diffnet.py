"""DiffNet: a user's vector spreads along the social edges.

Layer k + 1 of the users is H_k + S H_k, S the mean over the users whom one trusts; a user's vector is the
sum of layers 0..K and the mean of the user's items (Wu et al., SIGIR 2019, arXiv 1904.10322, Eq. 4 to 8,
in the form of the authors' code against over-smoothing, without features and without W). The loss is BPR.

Letters: U users, I items, S social edges, d size of an embedding, K layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta
from torch import Tensor

from agents.baselines.base import BaselineConfig
from agents.baselines.embeddings import EmbeddingConfig, EmbeddingModel, mean_over
from agents.baselines.learning import Learned, tensor_of
from refit_env.backbones.graphs import Operator
from refit_env.data.dataset import Dataset


@dataclass(frozen=True)
class DiffNetConfig(EmbeddingConfig):
    """DiffNet's settings."""

    layers: Annotated[int, Meta(ge=1, le=10)] = 2
    """K."""


class SocialModel(EmbeddingModel):
    """The tables, and the means over trusted users and over items."""

    config: DiffNetConfig
    edges: Tensor

    def __init__(self, data: Dataset, config: DiffNetConfig) -> None:
        """Store the social edges."""
        super().__init__(data, config)
        assert data.social is not None
        self.register_buffer("edges", tensor_of(data.social.T.copy()), persistent=False)
        self._means: tuple[Operator, Operator] | None = None

    @property
    def means(self) -> tuple[Operator, Operator]:
        """Build the means over trusted users, and over the user's items."""
        if self._means is None:
            users, items = self.users.num_embeddings, self.items.num_embeddings
            self._means = mean_over(self.edges, users, users), mean_over(self.pairs, users, items)
        return self._means

    def embed(self) -> tuple[Tensor, Tensor]:
        """The users' sums (U, d), and the item table (I, d)."""
        social, consumed = self.means
        layer = self.users.weight
        total = layer + consumed(self.items.weight)
        for _ in range(self.config.layers):
            layer = layer + social(layer)
            total = total + layer
        return total, self.items.weight


class DiffNet(Learned):
    """DiffNet: social influence in layers (Wu et al., SIGIR 2019, arXiv 1904.10322)."""

    name: ClassVar[str] = "diffnet"
    needs: ClassVar[str] = "social"
    config_class: ClassVar[type[BaselineConfig]] = DiffNetConfig
    config: DiffNetConfig

    def build(self, data: Dataset) -> SocialModel:
        """The tables and the graphs."""
        return SocialModel(data, self.config)
