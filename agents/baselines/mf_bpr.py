"""MF-BPR: matrix factorisation by pairwise ranking.

The score is w_u h_i; the loss -log sigmoid(w_u h_i - w_u h_j) + l2 / 2 (|w_u|^2 + |h_i|^2 + |h_j|^2) of an
interaction (u, i) and an item j that the user does not have (Rendle et al., UAI 2009, arXiv 1205.2618). Adam
replaces plain stochastic gradient descent.

The first embeddings are small (``initial_std``), because no graph smooths them. With .1, as in LightGCN's
code, validation NDCG@20 is .0206 instead of .0337 on Ciao, .0485 instead of .0637 on Foursquare, .0182
instead of .0245 on Epinions. Pairs drawn by user (``by_user``) are better on Gowalla (.0730, .0648, after 8
epochs, of every tenth user), level on Yelp2018, and worse on Ciao, Foursquare, Epinions and ML-100K.

Letters: U users, I items, d size of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta
from torch import Tensor

from agents.baselines.base import BaselineConfig
from agents.baselines.embeddings import EmbeddingConfig, EmbeddingModel
from agents.baselines.learning import Learned
from refit_env.data.dataset import Dataset
from refit_env.settings import Nonnegative


@dataclass(frozen=True)
class FactorsConfig(EmbeddingConfig):
    """MF-BPR's settings."""

    l2: Nonnegative = 1e-2
    """Weight of half the squared embeddings of a pair and its negative."""
    initial_std: Annotated[float, Meta(gt=0, le=10)] = 0.01
    """Standard deviation of the embeddings that training begins with."""


class Factors(EmbeddingModel):
    """Two tables."""

    def embed(self) -> tuple[Tensor, Tensor]:
        """Return the tables, (U, d) and (I, d)."""
        return self.users.weight, self.items.weight


class MatrixFactorization(Learned):
    """MF-BPR: matrix factorisation by pairwise ranking (Rendle et al., UAI 2009, arXiv 1205.2618)."""

    name: ClassVar[str] = "mf-bpr"
    config_class: ClassVar[type[BaselineConfig]] = FactorsConfig
    config: FactorsConfig

    def build(self, data: Dataset) -> Factors:
        """The tables."""
        return Factors(data, self.config)
