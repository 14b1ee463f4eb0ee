"""Collaborative-signal-aware reward (RACS) of ReFiT (arXiv 2511.06937).

r(u_0) = alpha * N_K + (1 - alpha) * N_sim-K

N_K counts the target's top-K items that are relevant to the target. The paper's source for N_sim-K is
public only as a summary, which allows two meanings; both counts are divided by K.

Letters: B users in the batch, I items, K list length, M neighbours, U users of the data set.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Annotated, Any, ClassVar

import scipy.sparse as sp
import torch
from torch import Tensor

from refit_env.data.rows import SparseRows
from refit_env.errors import SettingError
from refit_env.rewards.base import rank_discount
from refit_env.rewards.collaborative import CollaborativeReward
from refit_env.rewards.context import RewardContext
from refit_env.rewards.neighbor_rows import NeighborRows
from refit_env.rewards.user_similarity import SimilarIds
from refit_env.settings import OneOf, check_setting


class SimilarUsers(ABC):
    """The term N_sim-K: gains of the target's items, and a part that does not depend on the target's list.

    Attributes:
        uses_lists: whether it depends on the lists of all users.
    """

    uses_lists: ClassVar[bool] = False

    def __init__(
        self,
        context: RewardContext,
        neighbors: SimilarIds,
        relevant: sp.csr_matrix,
        discount: Tensor,
    ):
        """Keep the context, the neighbours, what is relevant to them (U, I), the ranks' weights (K,)."""
        self.context, self.neighbors, self.relevant, self.discount = context, neighbors, relevant, discount

    @abstractmethod
    def gains(self, users: Tensor) -> Tensor:
        """(B, I) the gain of each item in the target's list."""

    @abstractmethod
    def gains_at(self, users: Tensor, lists: Tensor) -> Tensor:
        """(B, K) the gains of the items of the target's list."""

    def constant(self, users: Tensor) -> Tensor:
        """(B,) a part that does not depend on the target's list."""
        return torch.zeros(users.numel(), device=self.context.device)

    def set_lists(self, lists: Tensor) -> None:  # noqa: B027  # most variants use no other lists
        """Set the lists of all users (U, K)."""

    def lists_read(self, users: Tensor) -> Tensor:
        """Return the users (n,) whose lists the term of ``users`` (B,) depends on."""
        return users[:0]


class TargetList(SimilarUsers):
    """``target_list``: mean over the neighbours of the hits of the target's list in their relevant items."""

    @cached_property
    def rows(self) -> NeighborRows:
        """(U, I) share of each user's neighbours to whom an item is relevant."""
        return NeighborRows(self.neighbors.ids, self.relevant, self.context.device)

    def gains(self, users: Tensor) -> Tensor:
        """See ``SimilarUsers``."""
        return self.rows.dense(users)

    def gains_at(self, users: Tensor, lists: Tensor) -> Tensor:
        """See ``SimilarUsers``."""
        return self.rows.at(users, lists)


class NeighborLists(SimilarUsers):
    """``neighbor_lists``: mean over the neighbours of the hits of their own lists in their relevant items."""

    uses_lists: ClassVar[bool] = True

    def __init__(
        self,
        context: RewardContext,
        neighbors: SimilarIds,
        relevant: sp.csr_matrix,
        discount: Tensor,
    ):
        """See ``SimilarUsers``; the lists are those of a nearest-neighbour recommender until they are set."""
        super().__init__(context, neighbors, relevant, discount)
        self._lists: Tensor | None = None  # (U, K)

    @cached_property
    def rows(self) -> SparseRows:
        """(U, I) the relevant items of each user."""
        return SparseRows(self.relevant, self.context.device)

    @cached_property
    def index(self) -> Tensor:
        """(U, M) the neighbours of each user, -1 where there is none."""
        ids = self.neighbors.ids
        return torch.as_tensor(ids.copy(), device=self.context.device)  # it is read-only

    def gains(self, users: Tensor) -> Tensor:
        """Zeros: the target's list does not change the neighbours' lists."""
        return torch.zeros(users.numel(), self.context.num_items, device=self.context.device)

    def gains_at(self, users: Tensor, lists: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros(lists.shape, device=self.context.device)

    def constant(self, users: Tensor) -> Tensor:
        """(B,) mean over a user's neighbours of their own lists' discounted hits in their own items."""
        index = self.index[users]  # (B, M)
        some, place = torch.unique(index.clamp(min=0), return_inverse=True)  # (n,), (B, M)
        count = self.neighbors.count
        lists = self.context.reference_lists(count) if self._lists is None else self._lists  # (U, K)
        hits = (self.rows.at(some, lists[some]) * self.discount).double().sum(1)  # (n,)
        return torch.where(index >= 0, hits[place], 0.0).mean(1).float()

    def lists_read(self, users: Tensor) -> Tensor:
        """Return the neighbours (n,) of ``users`` (B,)."""
        some: Tensor = torch.unique(self.index[users])
        return some[some >= 0]

    def set_lists(self, lists: Tensor) -> None:
        """Replace the lists of all users (U, K)."""
        self._lists = lists


VARIANTS: dict[str, type[SimilarUsers]] = {"target_list": TargetList, "neighbor_lists": NeighborLists}
"""The meanings of N_sim-K by name."""


class Racs(CollaborativeReward):
    """Hits of the target's list in its own relevant items and in those of its most similar users.

    - ``variant="target_list"`` (default): N_sim-K is the mean over the M neighbours of the hits of the
      *target's* list in each neighbour's relevant items. It depends on u_0, so it has a gradient.
    - ``variant="neighbor_lists"`` (the literal wording): the mean over the neighbours of the hits of
      *their own* lists in their own relevant items. Given the policy, those lists are independent of the
      target's noise; with the target's log-probabilities alone the expected gradient of this term is zero.
      ``refresh`` sets those lists to a model's, ``set_lists`` to any; they start as those of a user-based
      nearest-neighbour recommender.

    For a user with fewer than M neighbours (others with a common item) the missing ones count as 0 hits.
    """

    def __init__(
        self,
        context: RewardContext,
        *,
        variant: str = "target_list",
        discount: str = "flat",
        **similar: Any,
    ) -> None:
        """Make the reward.

        Args:
            context: data, relevance, K.
            variant: ``"target_list"`` or ``"neighbor_lists"``.
            discount: ``"flat"`` counts hits (the paper), ``"log"`` has the rank weights of DCG.
            **similar: settings of ``CollaborativeReward``.

        Raises:
            ValueError: if a setting is out of range or unknown.
        """
        check_setting("variant", variant, Annotated[str, OneOf(VARIANTS)])
        if VARIANTS[variant].uses_lists:  # lists of episodes
            if similar.get("neighbors_among") == "users":
                raise SettingError(
                    "neighbors_among", f"must be episodes for variant {variant!r}, whose lists are theirs"
                )
            similar["neighbors_among"] = "episodes"
        super().__init__(context, rank_discount(discount, context.k), ("n_k", "n_sim_k"), **similar)
        self.similar = VARIANTS[variant](context, self.neighbors, self.relevant, self.discount)

    @property
    def uses_lists(self) -> bool:
        """Whether the variant uses the lists of all users."""
        return self.similar.uses_lists

    def lists_read(self, users: Tensor) -> Tensor:
        """Return the users (n,) whose lists the rewards of ``users`` (B,) depend on."""
        return self.similar.lists_read(users)

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """Return the target's relevant items, and the gains by similar users."""
        return {"n_k": self.context.relevant.dense(users), "n_sim_k": self.similar.gains(users)}

    def term_gains_at(self, users: Tensor, lists: Tensor) -> dict[str, Tensor]:
        """Return the same at the lists' items (B, K), without dense rows."""
        own = self.context.relevant.at(users, lists)  # (B, K)
        return {"n_k": own, "n_sim_k": self.similar.gains_at(users, lists)}

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the two counts."""
        total, terms = super().compute(scores, users, lists)
        constant = self.similar.constant(users)  # (B,)
        terms["n_sim_k"] = terms["n_sim_k"] + constant
        return total + self.weights["n_sim_k"] * constant, terms

    def with_own_lists(self) -> Racs:
        """See ``Reward``."""
        if not self.uses_lists:
            return self
        own = copy.copy(self)
        own.similar = copy.copy(self.similar)
        return own

    def set_lists(self, lists: Tensor) -> None:
        """Replace the table of all users' own lists (U, K), for ``neighbor_lists``.

        Raises:
            ValueError: if its shape is not (U, K), or it holds unknown items.
        """
        self.similar.set_lists(self.context.checked_lists(lists))
