"""RP3beta: a random walk of three steps, user - item - user - item, divided by popularity.

With P_ui = x_ui / n_u and P_iu = x_ui / n_i, each to the power alpha, item j is scored by the row times
sum_u P_iu^alpha P_uj^alpha / n_j^beta (Paudel et al., ACM TiiS 2017; P3alpha, Cooper et al., WWW 2014, is
beta = 0). As in the code of Ferrari Dacrema et al. (RecSys 2019), each item keeps the k largest weights of
its walk, and the walk's first step, which changes a user's scores by a factor alone, is left out.

Letters: U users, I items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from msgspec import Meta

from agents.baselines.base import Baseline, BaselineConfig, Scorer
from agents.baselines.matrices import known_sets, nearest_columns, product_scores, shown_rows
from refit_env.data.dataset import Dataset
from refit_env.settings import Size


@dataclass(frozen=True)
class RP3BetaConfig(BaselineConfig):
    """RP3beta's settings."""

    alpha: Annotated[float, Meta(ge=0, le=5)] = 1.0
    """Power of the walk's probabilities."""
    beta: Annotated[float, Meta(ge=0, le=5)] = 0.6
    """Power of an item's popularity that divides its scores."""
    neighbors: Size = 100
    """Most similar items of each item."""


class RP3Beta(Baseline):
    """RP3beta: a three-step random walk on the graph of users and items (Paudel et al., 2017)."""

    name: ClassVar[str] = "rp3beta"
    config_class: ClassVar[type[BaselineConfig]] = RP3BetaConfig
    config: RP3BetaConfig

    def fit_episodes(self, data: Dataset, seed: int, device: torch.device) -> Scorer:
        """Compute the k most likely items of each item."""
        sets, config = known_sets(data), self.config
        by_user, by_item = (np.maximum(np.asarray(sets.sum(axis)).ravel(), 1.0) for axis in (1, 0))
        to_users = sp.csr_matrix(sp.diags(by_item**-config.alpha) @ sets.T)  # (I, U)
        to_items = sp.csr_matrix(sp.diags(by_user**-config.alpha) @ sets)  # (U, I)
        penalty = by_item**-config.beta  # (I,)

        def penalised(walk: sp.csr_matrix, items: slice) -> sp.csr_matrix:
            walk.data *= penalty[walk.indices]
            return walk

        near = nearest_columns(to_users, to_items, config.neighbors, penalised)  # (I, I)
        return Scorer(product_scores(shown_rows(data), near))
