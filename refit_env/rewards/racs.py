"""RACS, the collaborative-signal-aware reward of ReFiT (arXiv 2511.06937).

r(u_0) = alpha * N_K + (1 - alpha) * N_sim-K

N_K counts the target's top-K items that are relevant to the target. The paper's source for N_sim-K is
not public beyond a summary, so two readings are offered; both counts are divided by K.

Letters: B users in the batch, I items, K list length, M neighbours, U users of the data set.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from refit_env.data.rows import SparseRows
from refit_env.neighbors import neighbor_average
from refit_env.rewards.base import ListReward, rank_discount
from refit_env.rewards.context import NEIGHBORS, RewardContext
from refit_env.rewards.relevance import MODES, common, make_relevance
from refit_env.settings import OneOf, Share, Size, check_setting

VARIANTS = ("target_list", "neighbor_lists")
"""Readings of N_sim-K."""
NeighborRelevance = Annotated[str, OneOf(mode for mode in MODES if mode != "none")] | None
"""Under ``none`` there would be nothing to hit."""


class Racs(ListReward):
    """Hits of the target's list in its own relevant items and in those of its most similar users.

    - ``variant="target_list"`` (default): N_sim-K is the mean over the M neighbours of the hits of the
      *target's* list in each neighbour's relevant items. It depends on u_0, so it has a gradient.
    - ``variant="neighbor_lists"`` (the literal wording): the mean over the neighbours of the hits of
      *their own* lists in their own relevant items. Given the policy, those lists are independent of the
      target's noise; with the target's log-probabilities alone the expected gradient of this term is zero.
      The lists come from a table that ``refresh`` makes by a model and ``set_lists`` replaces; it begins
      as a user-based nearest-neighbour recommender's.

    A user with fewer than M neighbours (others with a common item) counts the missing ones as without hits.
    """

    counts_relevant: ClassVar[bool] = True

    def __init__(
        self,
        context: RewardContext,
        *,
        alpha: float = 0.5,
        neighbors: int = NEIGHBORS,
        variant: str = "target_list",
        neighbor_relevance: str | None = None,
        discount: str = "flat",
    ) -> None:
        """Make the reward.

        Args:
            context: data, relevance, K.
            alpha: weight of the target's own hits, in 0..1 (the paper: 0.5, best in 0.3..0.7).
            neighbors: M (the paper: 10), by the cosine of the visible rows.
            variant: ``"target_list"`` or ``"neighbor_lists"``.
            neighbor_relevance: what counts as relevant to a neighbour; None is the context's own mode.
            discount: ``"flat"`` counts hits (the paper), ``"log"`` weighs ranks as DCG does.

        Raises:
            ValueError: if a setting is out of range or unknown.
        """
        check_setting("alpha", alpha, Share)
        check_setting("neighbors", neighbors, Size)
        check_setting("variant", variant, Annotated[str, OneOf(VARIANTS)])
        check_setting("neighbor_relevance", neighbor_relevance, NeighborRelevance)
        weights = {"n_k": alpha, "n_sim_k": 1.0 - alpha}
        super().__init__(context, rank_discount(discount, context.k), weights)
        self.variant, self.num_neighbors = variant, neighbors
        own = context.relevance
        others = own
        if neighbor_relevance not in (None, own.mode):
            made_with = own.fraction, own.seed, own.selection_share
            others = make_relevance(str(neighbor_relevance), context.dataset, *made_with)
        self._neighbor_relevant = others.relevant
        self._selecting = common([own.selecting, others.selecting])
        self._lists: Tensor | None = None
        self._neighbor_hits: Tensor | None = None

    @property
    def uses_lists(self) -> bool:  # type: ignore[override]  # here it depends on the variant
        """Whether all users' own lists matter."""
        return self.variant == "neighbor_lists"

    @property
    def selecting(self) -> npt.NDArray[np.int64] | None:
        """(m,) users whose validation items it does not see, as a neighbour's either; None: nobody's."""
        return self._selecting

    @cached_property
    def similar(self) -> SparseRows:
        """(U, I) share of each user's neighbours to whom an item is relevant."""
        share = neighbor_average(self.context.neighbors(self.num_neighbors), self._neighbor_relevant)
        return SparseRows(share, self.context.device)

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """The target's relevant items, and the neighbours' mean row (nothing in ``neighbor_lists``)."""
        own = self.context.relevant.dense(users)  # (B, I)
        return {
            "n_k": own,
            "n_sim_k": torch.zeros_like(own) if self.uses_lists else self.similar.dense(users),
        }

    def term_worth(self, users: Tensor, lists: Tensor) -> dict[str, Tensor]:
        """The same at the lists' items (B, K), without dense rows."""
        own = self.context.relevant.at(users, lists)  # (B, K)
        return {
            "n_k": own,
            "n_sim_k": torch.zeros_like(own) if self.uses_lists else self.similar.at(users, lists),
        }

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The two counts; in ``neighbor_lists`` the second does not look at ``lists``."""
        total, terms = super().compute(scores, users, lists)
        if self.uses_lists:
            terms["n_sim_k"] = self.neighbor_hits()[users]  # (B,)
            total = total + self.weights["n_sim_k"] * terms["n_sim_k"]
        return total, terms

    def set_lists(self, lists: Tensor) -> None:
        """Replace the table of all users' own lists (U, K) that ``neighbor_lists`` scores.

        Raises:
            ValueError: if its shape is not (U, K), or it holds unknown items.
        """
        self._lists = self.context.checked_lists(lists)
        self._neighbor_hits = None

    def neighbor_hits(self) -> Tensor:
        """(U,) mean over a user's neighbours of their own lists' discounted hits in their own items."""
        if self._neighbor_hits is None:
            lists = self._lists  # (U, K)
            if lists is None:
                lists = self.context.reference_lists(self.num_neighbors)
            everyone = torch.arange(self.context.num_users, device=self.context.device)
            relevant = SparseRows(self._neighbor_relevant, self.context.device)
            hits = (relevant.at(everyone, lists) * self.discount).double().sum(1)  # (U,)
            neighbors = self.context.neighbors(self.num_neighbors).copy()  # the shared one is read-only
            index = torch.as_tensor(neighbors, device=self.context.device)  # (U, M)
            self._neighbor_hits = torch.where(index >= 0, hits[index.clamp(min=0)], 0.0).mean(1).float()
        return self._neighbor_hits
