"""RACS with the rank weights and the divisors of NDCG.

r(u_0) = alpha * NDCG_K(R(u)) + (1 - alpha) * sum_y w_uy NDCG_K(R(y)),    y in S(u), sum_y w_uy <= 1

NDCG_K(R) is that of the target's list, with the items R as the relevant ones. RACS (``racs``) counts hits
and divides them by K: a hit at rank 20 counts as one at rank 1, and a user with one relevant item can earn
1 / K at most, so that users with many relevant items dominate its gradient. Here every user can earn 1.

Letters: B users in the batch, U users, I items, K list length, M neighbours.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from refit_env.data.rows import SparseRows
from refit_env.evaluation.metrics import discounts, ideal_dcg
from refit_env.neighbors import neighbor_average
from refit_env.rewards.base import ListReward
from refit_env.rewards.context import NEIGHBORS, RewardContext
from refit_env.rewards.racs import NeighborRelevance, relevance_of_neighbors
from refit_env.rewards.relevance import common
from refit_env.rewards.user_similarity import SIMILAR_BY, SimilarIds
from refit_env.settings import OneOf, Share, Size, check_setting


class RacsNdcg(ListReward):
    """NDCG of the target's list in its own relevant items, and the mean of those in its similar users' items.

    With ``alpha=1`` it is ``ndcg``. Its term ``ndcg_sim`` is the mean over the M neighbours of the NDCG that
    the target's list has in each neighbour's relevant items; for a user with fewer than M neighbours the
    missing ones count 0.

    With ``excess`` the mean gains of all users are subtracted from those of the neighbours: what is left is
    what distinguishes the neighbours. Without it popular items gain most, because most users have them.
    """

    counts_relevant: ClassVar[bool] = True

    def __init__(
        self,
        context: RewardContext,
        *,
        alpha: float = 0.5,
        neighbors: int = NEIGHBORS,
        neighbors_by: str = "rows",
        checkpoint: str | None = None,
        neighbor_relevance: str | None = None,
        excess: bool = False,
    ) -> None:
        """Make the reward.

        Args:
            context: data, relevance, K.
            alpha: weight of the target's own NDCG, in 0..1.
            neighbors: M.
            neighbors_by: ``"rows"`` (the cosine of the visible rows), ``"index"`` (the same, by an
                approximate search), ``"factors"`` (of their 64 leading factors) or ``"model"`` (of the
                vectors u_0 of a pretrained model).
            checkpoint: for ``"model"``: its folder; None is the environment's.
            neighbor_relevance: mode of the relevant items of neighbours; None is the context's mode.
            excess: subtract the mean gains of all users from the neighbours'.

        Raises:
            ValueError: if a setting is out of range or unknown.
        """
        check_setting("alpha", alpha, Share)
        check_setting("neighbors", neighbors, Size)
        check_setting("neighbors_by", neighbors_by, Annotated[str, OneOf(SIMILAR_BY)])
        check_setting("neighbor_relevance", neighbor_relevance, NeighborRelevance)
        check_setting("excess", excess, bool)
        super().__init__(context, discounts(context.k), {"ndcg": alpha, "ndcg_sim": 1.0 - alpha})
        self._others = relevance_of_neighbors(context, neighbor_relevance)
        self._selecting = common([context.relevance.selecting, self._others.selecting])
        self._neighbors = SimilarIds(context, neighbors, neighbors_by, checkpoint)
        self._excess = excess

    @property
    def selecting(self) -> npt.NDArray[np.int64] | None:
        """(m,) users whose validation items it does not read, as neighbours either; None: all can select."""
        return self._selecting

    @cached_property
    def _scaled(self) -> sp.csr_matrix:
        """(U, I) each user's relevant items with the gain 1 / ideal DCG."""
        relevant = self._others.relevant
        counts = torch.from_numpy(np.diff(relevant.indptr).astype(np.int64))
        return sp.csr_matrix(sp.diags((1.0 / ideal_dcg(counts, self.k)).numpy()) @ relevant)

    @cached_property
    def _similar(self) -> SparseRows:
        """(U, I) the mean of the neighbours' gains."""
        return SparseRows(neighbor_average(self._neighbors.ids, self._scaled), self.context.device)

    @cached_property
    def _everyone(self) -> Tensor:
        """(I,) the mean gain of all users with relevant items; 0 without ``excess``."""
        if not self._excess:
            return torch.zeros(self.context.num_items, device=self.context.device)
        users = max(1, int((np.diff(self._others.relevant.indptr) > 0).sum()))
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
