"""RACS with the rank weights and the divisors of NDCG.

r(u_0) = alpha * NDCG_K(R(u)) + (1 - alpha) * sum_y w_uy NDCG_K(R(y)),    y in S(u), sum_y w_uy <= 1

NDCG_K(R) is that of the target's list, with the items R as the relevant ones. RACS (``racs``) counts hits
and divides them by K: a hit at rank 20 counts as one at rank 1, and a user with one relevant item can earn
1 / K at most, so that users with many relevant items dominate its gradient. Here every user can earn 1.

Letters: B users in the batch, U users, I items, K list length, M neighbours.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from refit_env.evaluation.metrics import discounts, ideal_dcg
from refit_env.rewards.collaborative import CollaborativeReward
from refit_env.rewards.context import RewardContext
from refit_env.rewards.neighbor_rows import NeighborRows
from refit_env.settings import check_setting


class RacsNdcg(CollaborativeReward):
    """NDCG of the target's list in its own relevant items, and the mean of those in its similar users' items.

    With ``alpha=1`` it is ``ndcg``. Its term ``ndcg_sim`` is the mean over the M neighbours of the NDCG that
    the target's list has in each neighbour's relevant items; for a user with fewer than M neighbours the
    missing ones count 0.

    With ``excess`` the mean gains of all users are subtracted from those of the neighbours: what is left is
    what distinguishes the neighbours. Without it popular items gain most, because most users have them.
    """

    def __init__(self, context: RewardContext, *, excess: bool = False, **similar: Any) -> None:
        """Make the reward.

        Args:
            context: data, relevance, K.
            excess: subtract the mean gains of all users from the neighbours'.
            **similar: settings of ``CollaborativeReward``.

        Raises:
            ValueError: if a setting is out of range or unknown.
        """
        check_setting("excess", excess, bool)
        super().__init__(context, discounts(context.k), ("ndcg", "ndcg_sim"), **similar)
        self._excess = excess

    @cached_property
    def _scaled(self) -> sp.csr_matrix:
        """(U, I) each user's relevant items with the gain 1 / ideal DCG."""
        relevant = self.relevant
        counts = torch.from_numpy(np.diff(relevant.indptr).astype(np.int64))
        return sp.csr_matrix(sp.diags((1.0 / ideal_dcg(counts, self.k)).numpy()) @ relevant)

    @cached_property
    def _similar(self) -> NeighborRows:
        """(U, I) the mean of the neighbours' gains."""
        return NeighborRows(self.neighbors.ids, self._scaled, self.context.device)

    @cached_property
    def _everyone(self) -> Tensor:
        """(I,) the mean gain of all users with relevant items; 0 without ``excess``."""
        if not self._excess:
            return torch.zeros(self.context.num_items, device=self.context.device)
        users = max(1, int((np.diff(self.relevant.indptr) > 0).sum()))
        mean = np.asarray(self._scaled.sum(0)).ravel() / users
        return torch.as_tensor(mean, dtype=torch.float32, device=self.context.device)

    def _own_scale(self, users: Tensor) -> Tensor:
        """(B, 1) 1 / ideal DCG of the users' own relevant items."""
        return (1.0 / ideal_dcg(self.context.relevant.counts(users), self.k))[:, None]

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """Return the gains by the user's own relevant items, and by those of similar users."""
        own = self.context.relevant.dense(users) * self._own_scale(users)
        return {"ndcg": own, "ndcg_sim": self._similar.dense(users) - self._everyone}

    def term_gains_at(self, users: Tensor, lists: Tensor) -> dict[str, Tensor]:
        """Return the same at the lists' items (B, K), without dense rows."""
        own = self.context.relevant.at(users, lists) * self._own_scale(users)
        return {"ndcg": own, "ndcg_sim": self._similar.at(users, lists) - self._everyone[lists]}
