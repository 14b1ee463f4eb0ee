"""Markov: how often an item came after those of the history.

With n_ij the train events of j at b places after i in a session, each counted 1 / b up to ``reach``
places, and P_ij = n_ij / (n_i + smoothing), the score of j is sum_b P(l_b, j) / b over the history's
items l_b, b places back (item-to-item transitions, Rendle et al., WWW 2010, Eq. 4; the weights 1 / b of
the sequential rules of Ludewig and Jannach, UMUAI 2018, arXiv 1803.09587, Eq. 4).

Letters: R train rows, U users that are scored, L history length, I items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from msgspec import Meta
from torch import Tensor

from agents.baselines.base import ROWS, Baseline, BaselineConfig, Scorer
from agents.baselines.matrices import product_scores
from refit_env.backbones.training_histories import TrainingHistories
from refit_env.data.dataset import Dataset
from refit_env.settings import Nonnegative


@dataclass(frozen=True)
class MarkovConfig(BaselineConfig):
    """Markov's settings."""

    reach: Annotated[int, Meta(ge=1, le=1000)] = 10
    """Places between two items of a session that are counted, and items of a history that are used; 1 is a
    Markov chain of the last item."""
    smoothing: Nonnegative = 1.0
    """Added to an item's number of followers, so that rare items have less weight."""


class Markov(Baseline):
    """Item-to-item transition counts, weighted by distance (Ludewig and Jannach, UMUAI 2018)."""

    name: ClassVar[str] = "markov"
    forms: ClassVar[tuple[str, ...]] = (ROWS,)
    ordered: ClassVar[bool] = True
    config_class: ClassVar[type[BaselineConfig]] = MarkovConfig
    config: MarkovConfig

    def fit_episodes(self, data: Dataset, seed: int, device: torch.device) -> Scorer:
        """Count."""
        known, items = TrainingHistories.of(data, self.config.reach), data.num_items
        before = weighted_histories(known.history, items)  # (R, I)
        targets = known.targets.numpy()
        after = sp.csr_matrix(
            (np.ones(targets.size), (np.arange(targets.size), targets)), (targets.size, items)
        )
        counts = sp.csr_matrix(before.T @ after)  # (I, I) n_ij
        total = np.asarray(counts.sum(1)).ravel() + self.config.smoothing  # (I,)
        inverse = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
        shares = sp.csr_matrix(sp.diags(inverse) @ counts)
        return Scorer(product_scores(weighted_histories(known.shown, items), shares))


def weighted_histories(history: Tensor, num_items: int) -> sp.csr_matrix:
    """Return the items (R, I) of each history with weights 1 / b at b places back; repeats are summed.

    Example:
        >>> weighted_histories(torch.tensor([[2, 0, 3]]), 3).toarray()
        array([[1. , 0. , 0.5]])
    """
    items = history.numpy()
    there = items < num_items  # (R, L)
    back = there.sum(1, keepdims=True) - np.arange(items.shape[1])  # (R, L)
    row = np.nonzero(there)[0]
    out = sp.csr_matrix((1.0 / back[there], (row, items[there])), (items.shape[0], num_items))
    out.sum_duplicates()
    return out
