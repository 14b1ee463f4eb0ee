"""What rewards with a part for similar users share: settings, neighbours, what is relevant to those.

Letters: B users in the batch, K list length, M neighbours.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from refit_env.rewards.base import ListReward
from refit_env.rewards.context import NEIGHBORS, RewardContext
from refit_env.rewards.relevance import MODES, Relevance, common, make_relevance
from refit_env.rewards.user_similarity import SIMILAR_BY, SimilarIds
from refit_env.settings import OneOf, Share, Size, check_setting

NeighborRelevance = Annotated[str, OneOf(mode for mode in MODES if mode != "none")] | None
"""Under ``none`` there would be nothing to hit."""


class CollaborativeReward(ListReward):
    """A sum over the list of the gains by the user's own relevant items and by those of similar users.

    Subclasses have its settings beside their own: ``def __init__(self, context, *, own=1.0, **similar)``.

    Attributes:
        neighbors: each user's similar users.
        others: what is relevant to those.
    """

    counts_relevant: ClassVar[bool] = True

    def __init__(
        self,
        context: RewardContext,
        discount: Tensor,
        terms: tuple[str, str],
        *,
        alpha: float = 0.5,
        neighbors: int = NEIGHBORS,
        neighbors_by: str = "rows",
        checkpoint: str | None = None,
        neighbor_relevance: str | None = None,
    ) -> None:
        """Make what such rewards share.

        Args:
            context: data, relevance, K.
            discount: (K,) weight of each rank.
            terms: names of the user's own part and of that of similar users.
            alpha: weight of the user's own part, in 0..1 (the paper: 0.5, best in 0.3..0.7).
            neighbors: M (the paper: 10).
            neighbors_by: ``"rows"`` (the cosine of the visible rows, the paper), ``"index"`` (the same, by
                an approximate search for 100,000 users and more), ``"factors"`` (of their 64 leading factors)
                or ``"model"`` (of the vectors u_0 of a pretrained model).
            checkpoint: for ``"model"``: its folder; None is the environment's.
            neighbor_relevance: mode of the relevant items of neighbours; None is the context's mode.

        Raises:
            ValueError: if a setting is out of range or unknown.
        """
        check_setting("alpha", alpha, Share)
        check_setting("neighbors", neighbors, Size)
        check_setting("neighbors_by", neighbors_by, Annotated[str, OneOf(SIMILAR_BY)])
        check_setting("neighbor_relevance", neighbor_relevance, NeighborRelevance)
        own, similar = terms
        super().__init__(context, discount, {own: alpha, similar: 1.0 - alpha})
        self.others = relevance_of_neighbors(context, neighbor_relevance)
        self.neighbors = SimilarIds(context, neighbors, neighbors_by, checkpoint)
        self._selecting = common([context.relevance.selecting, self.others.selecting])

    @property
    def selecting(self) -> npt.NDArray[np.int64] | None:
        """(m,) users whose validation items it does not read, as neighbours either; None: all can select."""
        return self._selecting


def relevance_of_neighbors(context: RewardContext, mode: str | None) -> Relevance:
    """Return what is relevant to neighbours: as for the user, or under another mode, its settings alike."""
    own = context.relevance
    if mode in (None, own.mode):
        return own
    return make_relevance(str(mode), context.dataset, own.fraction, own.seed, own.selection_share)
