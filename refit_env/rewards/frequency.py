"""What people return to: of a history of visits or plays, the items that stand in it most often.

Most check-ins are at places of one's own history, and a list of its most frequent ones is a strong baseline
of next-basket recommendation (P-TopFreq; Hu et al., SIGIR 2020, arXiv 2006.00556; Li et al., TOIS 2023,
arXiv 2109.14233). It is fitted to nothing: unlike a model that was trained on the rows that it rewards, it
is as good on train rows as on new ones.

Letters: B users in the batch, I items.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from refit_env.data.dataset import RowDataset
from refit_env.data.rows import SparseRows
from refit_env.rewards.context import RewardContext
from refit_env.rewards.linear_models import ModelReward, weighed
from refit_env.settings import Nonnegative, check_setting


class PersonalFrequency(ModelReward):
    """``personal_frequency``: how often the history shows an item, b places back weighed 1 / b^decay."""

    term = "personal_frequency"
    needs_rows: ClassVar[bool] = True

    def __init__(self, context: RewardContext, *, decay: float = 0.0) -> None:
        """Count.

        Args:
            context: data, relevance, K; of a sequential or check-in set, whose lists may hold what is shown.
            decay: how fast older items count less, at least 0; 0 counts, large values ask for the latest.

        Raises:
            ValueError: if it is out of range, or the data set has no rows in order.
        """
        check_setting("decay", decay, Nonnegative)
        super().__init__(context)
        assert isinstance(context.dataset, RowDataset)
        self._rows = SparseRows(weighed(context.dataset, decay), context.device)

    def predict(self, users: Tensor) -> Tensor:
        """(B, I) the weighed counts."""
        return self._rows.dense(users)
