"""RACS, the collaborative-signal-aware reward of ReFiT (arXiv 2511.06937).

r(u_0) = alpha * N_K + (1 - alpha) * N_sim-K

N_K counts the target's top-K items that are relevant to the target. The paper's source for N_sim-K is
not public beyond a summary, so two readings are offered; both counts are divided by K.

Letters: B users in the batch, I items, K list length, M neighbours, U users of the data set.
"""

from __future__ import annotations

from functools import cached_property

import scipy.sparse as sp
import torch
from torch import Tensor

from refit_env.data.rows import SparseRows
from refit_env.errors import unknown_name
from refit_env.metrics import hits
from refit_env.neighbors import neighbor_average
from refit_env.rewards.base import ListReward, RewardContext, rank_discount
from refit_env.rewards.relevance import make_relevance

VARIANTS = ("target_list", "neighbor_lists")
"""Readings of N_sim-K."""


class Racs(ListReward):
    """Hits of the target's list in its own relevant items and in those of its most similar users.

    - ``variant="target_list"`` (default): N_sim-K is the mean over the M neighbours of the hits of the
      *target's* list in each neighbour's relevant items. It depends on u_0, so it has a gradient.
    - ``variant="neighbor_lists"`` (the literal wording): the mean over the neighbours of the hits of
      *their own* lists in their own relevant items. Given the policy, those lists are independent of the
      target's noise; with the target's log-probabilities alone the expected gradient of this term is zero.
      The lists come from a table that ``set_lists`` replaces; it begins as a user-based
      nearest-neighbour recommender's.
    """

    def __init__(
        self,
        context: RewardContext,
        *,
        alpha: float = 0.5,
        neighbors: int = 10,
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
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha={alpha} must lie in 0..1")
        if neighbors < 1:
            raise ValueError(f"neighbors={neighbors} must be at least 1")
        if variant not in VARIANTS:
            raise unknown_name("RACS variant", variant, VARIANTS)
        weights = {"n_k": alpha, "n_sim_k": 1.0 - alpha}
        super().__init__(context, rank_discount(discount, context.k), weights)
        self.variant, self.num_neighbors = variant, neighbors
        relevant = context.relevance.relevant
        if neighbor_relevance is not None and neighbor_relevance != context.relevance.mode:
            relevant = make_relevance(neighbor_relevance, context.dataset).relevant
        self._neighbor_relevant: sp.csr_matrix = relevant
        self._lists: Tensor | None = None

    @cached_property
    def similar(self) -> SparseRows:
        """(U, I) share of each user's neighbours to whom an item is relevant."""
        users = self.context.neighbors(self.num_neighbors)
        return SparseRows(neighbor_average(users, self._neighbor_relevant), self.context.device)

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """The target's relevant items, and the neighbours' mean row (nothing in ``neighbor_lists``)."""
        own = self.context.relevant.dense(users)  # (B, I)
        if self.variant == "target_list":
            return {"n_k": own, "n_sim_k": self.similar.dense(users)}
        return {"n_k": own, "n_sim_k": torch.zeros_like(own)}

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The two counts; in ``neighbor_lists`` the second does not look at ``lists``."""
        total, terms = super().compute(scores, users, lists)
        if self.variant == "neighbor_lists":
            terms["n_sim_k"] = self.neighbor_hits[users]  # (B,)
            total = total + self.weights["n_sim_k"] * terms["n_sim_k"]
        return total, terms

    def set_lists(self, lists: Tensor) -> None:
        """Replace the table of all users' own lists (U, K) that ``neighbor_lists`` scores.

        Raises:
            ValueError: if its shape is not (U, K).
        """
        expected = (self.context.dataset.num_users, self.k)
        if tuple(lists.shape) != expected:
            raise ValueError(f"lists of shape {tuple(lists.shape)}, expected {expected}: one list for each user")
        self._lists = lists.to(self.context.device)
        self.__dict__.pop("neighbor_hits", None)

    @cached_property
    def neighbor_hits(self) -> Tensor:
        """(U,) mean over a user's neighbours of their own lists' discounted hits in their own relevant items."""
        lists = self._lists if self._lists is not None else self.context.reference_lists(self.num_neighbors)
        relevant = SparseRows(self._neighbor_relevant, self.context.device)
        everyone = torch.arange(self.context.dataset.num_users, device=self.context.device)
        own = torch.cat([(hits(lists[u], relevant.mask(u)) * self.discount).sum(1) for u in everyone.split(1024)])
        neighbors = torch.as_tensor(self.context.neighbors(self.num_neighbors), device=self.context.device)  # (U, M)
        return torch.where(neighbors >= 0, own[neighbors.clamp(min=0)], 0.0).mean(1)
