"""MF-BPR: matrix factorisation by pairwise ranking.

The score is w_u h_i; the loss -log sigmoid(w_u h_i - w_u h_j) + l2 / 2 (|w_u|^2 + |h_i|^2 + |h_j|^2) of an
interaction (u, i) and an item j that the user does not have (Rendle et al., UAI 2009, arXiv 1205.2618). Adam
replaces plain stochastic gradient descent.

A step draws users, all alike, and then an item of each, as the code of NGCF and LightGCN does (``by_user``);
the paper draws interactions. The first embeddings are small (``initial_std``), because no graph smooths them.
Validation NDCG@20 on Gowalla (every tenth user) after 8 epochs is .0731; with interactions .0648; with a
first deviation of .1, as in LightGCN's code, .0405. ML-100K is dense: interactions have .2174, users .2154.

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
    by_user: bool = True
    """Whether the pairs of an epoch are drawn by user, all users alike, and then one of the user's items;
    else each interaction is taken once."""


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
