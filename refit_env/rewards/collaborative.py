"""What rewards with a part for similar users share: settings, neighbours, what is relevant to those.

Letters: B users in the batch, K list length, M neighbours.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from torch import Tensor

from refit_env.rewards.base import ListReward
from refit_env.rewards.context import NEIGHBORS, RewardContext
from refit_env.rewards.relevance import MODES, Relevance, common, make_relevance
from refit_env.rewards.user_similarity import AMONG, SIMILAR_BY, SimilarIds, by_source
from refit_env.settings import OneOf, Share, Size, check_setting

NeighborRelevance = Annotated[str, OneOf(mode for mode in MODES if mode != "none")] | None
"""Under ``none`` there would be nothing to hit."""


class CollaborativeReward(ListReward):
    """A sum over the list of the gains by the user's own relevant items and by those of similar users.

    Subclasses have its settings beside their own: ``def __init__(self, context, *, own=1.0, **similar)``.

    Attributes:
        neighbors: each user's similar users.
        others: what is relevant to those.
        relevant: the same as a matrix, a row for each number in ``neighbors.ids``.
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
        neighbors_among: str | None = None,
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
            neighbors_among: where episodes are rows of users: ``"episodes"``, the neighbours are rows, or
                ``"users"``: they are users, who are compared by all items that their rows show, and to whom
                all targets of their rows are relevant. None is ``"users"`` in check-in sets, whose users have
                hundreds of rows each, and ``"episodes"`` elsewhere.

        Raises:
            ValueError: if a setting is out of range or unknown.
        """
        check_setting("alpha", alpha, Share)
        check_setting("neighbors", neighbors, Size)
        check_setting("neighbors_by", neighbors_by, Annotated[str, OneOf(SIMILAR_BY)])
        check_setting("neighbor_relevance", neighbor_relevance, NeighborRelevance)
        check_setting("neighbors_among", neighbors_among, Annotated[str, OneOf(AMONG)] | None)
        own, similar = terms
        if neighbors_among is None:
            by_user = context.dataset.task == "poi" and context.relevance.groups is not None
            neighbors_among = "users" if by_user and neighbors_by in ("rows", "index") else "episodes"
        super().__init__(context, discount, {own: alpha, similar: 1.0 - alpha})
        self.others = relevance_of_neighbors(context, neighbor_relevance)
        self.neighbors = SimilarIds(context, neighbors, neighbors_by, checkpoint, neighbors_among)
        self._selecting = common([context.relevance.selecting, self.others.selecting])

    @cached_property
    def relevant(self) -> sp.csr_matrix:
        """(U, I) what is relevant to each neighbour; (S, I) where these are users of the source."""
        groups = self.others.groups
        if self.neighbors.among == "episodes" or groups is None:
            return self.others.relevant
        return by_source(self.others.relevant, groups)

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
