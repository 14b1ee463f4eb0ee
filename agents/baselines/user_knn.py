"""User-kNN: an item is scored by the similarity of the users that have it.

With cosine similarities s(u, v) of rows and the k most similar users v of u, a score is sum_v s(u, v) x_v
(Resnick et al., CSCW 1994, for sets). Of rows in order the neighbours are sessions: session-kNN (Jannach and
Ludewig, RecSys 2017).

Letters: B users in a batch, U users, I items, S sets of the neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from agents.baselines.base import ROWS, SETS, Baseline, BaselineConfig, Scorer
from agents.baselines.matrices import dense_tensor, known_sets, nearest_columns, shown_rows
from refit_env.data.dataset import Dataset, RowDataset
from refit_env.settings import Nonnegative, Share, Size


@dataclass(frozen=True)
class UserKNNConfig(BaselineConfig):
    """User-kNN's settings."""

    neighbors: Size = 100
    """Most similar users."""
    shrink: Nonnegative = 0.0
    """Added to the denominator of the cosine: similarities of short rows count less."""
    balance: Share = 0.5
    """Exponent of the neighbour's length in the denominator; .5 is the cosine, above it, short rows count
    more."""


class UserKNN(Baseline):
    """User-kNN with a cosine (Resnick et al., CSCW 1994); of rows, session-kNN (Jannach and Ludewig, 2017).

    A row's session is among its neighbours if it was in training: a check-in user's past.
    """

    name: ClassVar[str] = "user-knn"
    forms: ClassVar[tuple[str, ...]] = (SETS, ROWS)
    config_class: ClassVar[type[BaselineConfig]] = UserKNNConfig
    config: UserKNNConfig

    def fit_episodes(self, data: Dataset, seed: int, device: torch.device) -> Scorer:
        """Store the sets; neighbours are computed when users are scored."""
        rows, sets, config = shown_rows(data), known_sets(data), self.config
        across = sp.csr_matrix(sets.T)  # (I, S)
        size = np.maximum(np.asarray(sets.sum(1)).ravel(), 1.0) ** config.balance  # (S,)
        length = np.asarray(rows.multiply(rows).sum(1)).ravel() ** (1.0 - config.balance)  # (U,)
        own = not isinstance(data, RowDataset)

        def score(users: Tensor) -> Tensor:
            """Return the neighbours' rows (B, I), weighted by their similarity."""
            ids = users.cpu().numpy()

            def similarity(common: sp.csr_matrix, part: slice) -> sp.csr_matrix:
                row = np.repeat(ids[part], np.diff(common.indptr))
                common.data /= length[row] * size[common.indices] + config.shrink
                if own:
                    common.data[common.indices == row] = 0.0
                return common

            near = nearest_columns(rows[ids], across, config.neighbors, similarity, without_itself=False)
            return dense_tensor(sp.csr_matrix(near @ sets), users.device)

        return Scorer(score)
