"""Personal frequency: the reward of an item is its frequency in the user's history of visits or plays.

Most check-ins are at places of the user's own history, and the list of its most frequent items is a strong
baseline of next-basket recommendation (P-TopFreq; Hu et al., SIGIR 2020, arXiv 2006.00556; Li et al., TOIS
2023, arXiv 2109.14233). It has no fitted weights, so it does not overfit to the train rows.

Letters: B users in the batch, I items.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from refit_env.data.dataset import RowDataset
from refit_env.data.rows import SparseRows
from refit_env.rewards.context import RewardContext
from refit_env.rewards.linear_models import ModelReward, weighted
from refit_env.settings import Nonnegative, check_setting


class PersonalFrequency(ModelReward):
    """``personal_frequency``: count of an item in the history, b positions back with weight 1 / b^decay."""

    term = "personal_frequency"
    needs_rows: ClassVar[bool] = True

    def __init__(self, context: RewardContext, *, decay: float = 0.0) -> None:
        """Count.

        Args:
            context: data, relevance, K; of a sequential or check-in set, whose lists may hold visible items.
            decay: decrease of the weight of older items, at least 0; with 0 all weights are 1, with a large
                value only the latest item counts.

        Raises:
            ValueError: if it is out of range, or the data set has no rows that are sorted by time.
        """
        check_setting("decay", decay, Nonnegative)
        super().__init__(context)
        assert isinstance(context.dataset, RowDataset)
        self._rows = SparseRows(weighted(context.dataset, decay), context.device)

    def predict(self, users: Tensor) -> Tensor:
        """(B, I) the weighted counts."""
        return self._rows.dense(users)
