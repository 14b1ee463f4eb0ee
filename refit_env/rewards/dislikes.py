"""A penalty for items that the user rated low.

Letters: B users in the batch, I items, K list length.
"""

from __future__ import annotations

from typing import ClassVar

import scipy.sparse as sp
from torch import Tensor

from refit_env.data.rows import SparseRows
from refit_env.rewards.base import ListReward, rank_discount
from refit_env.rewards.context import RewardContext


class Dislikes(ListReward):
    """``dislikes``: minus the share of the list that the user rated low in the train split.

    It is meant for mixes, ``{"ndcg": 1.0, "dislikes": 1.0}``: alone it is 0, its maximum, for any list
    without such items. Fine-tuning changes weights that all users share, so a list also loses items that are
    similar to disliked ones; the metric ``dislikes@K`` counts the held-out dislikes. The data needs dislikes
    (``refit data prepare --dislike-below``).
    """

    needs_dislikes: ClassVar[bool] = True

    def __init__(self, context: RewardContext, *, discount: str = "flat") -> None:
        """``discount``: ``"flat"`` counts the items of the list, ``"log"`` has the rank weights of DCG."""
        super().__init__(context, rank_discount(discount, context.k), {"dislikes": 1.0})
        low = context.dataset.disliked("train")
        assert low is not None  # the base class refused data without dislikes
        self._low = SparseRows(sp.csr_matrix(low), context.device)

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """Return -1 for each disliked item, 0 elsewhere (B, I)."""
        return {"dislikes": -self._low.dense(users)}

    def term_gains_at(self, users: Tensor, lists: Tensor) -> dict[str, Tensor]:
        """Return the same at the lists' items (B, K)."""
        return {"dislikes": -self._low.at(users, lists)}
