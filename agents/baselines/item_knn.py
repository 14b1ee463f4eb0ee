"""Item-kNN: an item is scored by its similarity to the items that a user has.

The similarity of items i and j, with n_i users each and n_ij in common, is n_ij / (sqrt(n_i n_j) + shrink)
(Sarwar et al., WWW 2001; the shrunk cosine of Bell and Koren, ICDM 2007, as Ferrari Dacrema et al., RecSys
2019, arXiv 1907.06902, tune it). Each item keeps its k most similar items; a score is the row times these.

Letters: U users, I items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
import torch

from agents.baselines.base import ROWS, SETS, Baseline, BaselineConfig, Scorer
from agents.baselines.matrices import known_sets, nearest_columns, product_scores, shown_rows
from refit_env.data.dataset import Dataset
from refit_env.settings import Nonnegative, Share, Size


@dataclass(frozen=True)
class ItemKNNConfig(BaselineConfig):
    """Item-kNN's settings."""

    neighbors: Size = 100
    """Number of most similar items of each item."""
    shrink: Nonnegative = 10.0
    """Added to the denominator: similarities of rare items count less."""
    balance: Share = 0.5
    """b in the denominator n_i^(1 - b) n_j^b of the score of j by the owned i: .5 is the cosine, with 0 the
    popularity of j divides nothing (Aiolli, RecSys 2013)."""


class ItemKNN(Baseline):
    """Item-kNN with a shrunk cosine (Sarwar et al., WWW 2001).

    Of rows in order, the similarities are those of items in the same train session, and a history's items
    count 1, 1/2, 1/3 ... from the newest back.
    """

    name: ClassVar[str] = "item-knn"
    forms: ClassVar[tuple[str, ...]] = (SETS, ROWS)
    config_class: ClassVar[type[BaselineConfig]] = ItemKNNConfig
    config: ItemKNNConfig

    def fit_episodes(self, data: Dataset, seed: int, device: torch.device) -> Scorer:
        """Find each item's neighbours."""
        sets, config = known_sets(data), self.config
        counts = np.maximum(np.asarray(sets.sum(0)).ravel(), 1.0)  # (I,)
        own, other = counts**config.balance, counts ** (1.0 - config.balance)

        def similarity(common: sp.csr_matrix, items: slice) -> sp.csr_matrix:
            """Return the common users (n, I) of ``items`` with all others, divided by the denominator."""
            row = np.repeat(np.arange(common.shape[0]) + items.start, np.diff(common.indptr))
            common.data /= own[row] * other[common.indices] + config.shrink
            return common

        near = nearest_columns(sp.csr_matrix(sets.T), sets, config.neighbors, similarity)  # (I, I)
        return Scorer(product_scores(shown_rows(data), sp.csr_matrix(near.T)))
