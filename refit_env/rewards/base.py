"""What a reward is, and the list rewards: those that add up over the positions of a top-K list.

Letters: B users (episodes) in the batch, I items, K list length, U users of the data set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from refit_env.data.dataset import Dataset
from refit_env.data.rows import SparseRows
from refit_env.metrics import discounts, top_k
from refit_env.neighbors import nearest_users, neighbor_average
from refit_env.rewards.relevance import Relevance


class RewardContext:
    """What rewards are made from: the data, what counts as relevant, the list length, the device.

    The rewards of a mix share one, so that sparse rows and neighbours are made once.

    Attributes:
        dataset: only its train split, and through ``relevance`` the valid one, may be looked at.
        relevance: what is shown, counted and kept out of lists.
        k: list length K.
        device: where scores will come from.
    """

    def __init__(
        self, dataset: Dataset, relevance: Relevance, k: int = 20, device: torch.device | str = "cpu"
    ) -> None:
        """Collect; ValueError if k is outside 1..I."""
        if not 1 <= k <= dataset.num_items:
            raise ValueError(f"k={k} must lie in 1..{dataset.num_items}, the number of items")
        self.dataset, self.relevance, self.k, self.device = dataset, relevance, k, torch.device(device)
        self._neighbors: dict[int, npt.NDArray[np.int64]] = {}

    @cached_property
    def relevant(self) -> SparseRows:
        """(U, I) what counts as a hit."""
        return SparseRows(self.relevance.relevant, self.device)

    @cached_property
    def hidden(self) -> SparseRows | None:
        """(U, I) what no list may hold, or None."""
        return None if self.relevance.hidden is None else SparseRows(self.relevance.hidden, self.device)

    @cached_property
    def popularity(self) -> npt.NDArray[np.float64]:
        """(I,) users who have each item among what is visible."""
        return np.bincount(self.relevance.visible.indices, minlength=self.dataset.num_items).astype(np.float64)

    def neighbors(self, count: int) -> npt.NDArray[np.int64]:
        """(U, count) the most similar users by the cosine of the visible rows, -1 where there are fewer."""
        if count not in self._neighbors:
            self._neighbors[count] = nearest_users(self.relevance.visible, count)[0]
        return self._neighbors[count]

    def reference_lists(self, neighbors: int = 10) -> Tensor:
        """(U, K) lists of a user-based nearest-neighbour recommender on the visible rows.

        What rewards that look at other users' lists take before an agent gives them its own.
        """
        rows = SparseRows(neighbor_average(self.neighbors(neighbors), self.relevance.visible), self.device)
        users = torch.arange(self.dataset.num_users, device=self.device)
        parts = [top_k(rows.dense(u), self.k, self.hidden_mask(u)) for u in users.split(1024)]
        return torch.cat(parts)

    def hidden_mask(self, users: Tensor) -> Tensor | None:
        """(B, I) bool, the items that no list of ``users`` may hold; None if every item may stand in one."""
        return None if self.hidden is None else self.hidden.mask(users)


class Reward(ABC):
    """A terminal reward r(u_0): one number for each episode.

    Attributes:
        context: what it was made from.
        terms: the parts of the last call by name, (B,) float32 each, unweighted.
        term_names: their names, known before the first call.
    """

    term_names: tuple[str, ...] = ()

    def __init__(self, context: RewardContext) -> None:
        """Keep the context; subclasses take their settings as further keyword arguments."""
        self.context = context
        self.terms: dict[str, Tensor] = {}

    @property
    def k(self) -> int:
        """K."""
        return self.context.k

    def __call__(self, scores: Tensor, users: Tensor, lists: Tensor | None = None) -> Tensor:
        """Reward each episode.

        Args:
            scores: (B, I) float, as denoised; what no list may hold is masked here.
            users: (B,) int64.
            lists: (B, K) their top-K lists if the caller has them already.

        Returns:
            (B,) float32.

        Raises:
            ValueError: if scores hold NaN or have another shape than (B, I).
        """
        if scores.shape != (users.numel(), self.context.dataset.num_items):
            raise ValueError(
                f"scores of shape {tuple(scores.shape)}, expected {(users.numel(), self.context.dataset.num_items)}"
            )
        if lists is None:
            lists = self.top_k(scores, users)
        total, self.terms = self.compute(scores, users, lists)
        return total.float()

    @abstractmethod
    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The reward (B,) and its terms, from scores (B, I), users (B,) and lists (B, K)."""

    def top_k(self, scores: Tensor, users: Tensor) -> Tensor:
        """(B, K) the lists of ``scores`` (B, I), best item first, ties to the lower id."""
        return top_k(scores, self.k, self.hidden(users))

    def hidden(self, users: Tensor) -> Tensor | None:
        """(B, I) bool, the items that no list of ``users`` may hold, or None."""
        return self.context.hidden_mask(users)

    def parts(self) -> list[tuple[Reward, float]]:
        """The rewards that this one is a weighted sum of: itself, unless it is a mix."""
        return [(self, 1.0)]


class ListReward(Reward):
    """A reward that adds up over the list: sum over ranks of discount[rank] * gains[item at that rank].

    Subclasses give the gains of each term and its weight. Estimators that know this form have far less
    variance than the score function: see ``agents.estimators``.

    Attributes:
        weights: weight of each term in the reward.
        discount: (K,) float32 weight of each rank, not rising.
    """

    def __init__(self, context: RewardContext, discount: Tensor, weights: Mapping[str, float]) -> None:
        """Keep the discount (K,) and the terms' weights."""
        super().__init__(context)
        self.discount = discount.to(context.device)
        self.weights = dict(weights)
        self.term_names = tuple(weights)

    @abstractmethod
    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """By term, (B, I) float32: what having item i in the list of ``users`` (B,) is worth."""

    def gains(self, users: Tensor) -> Tensor:
        """(B, I) float32: what an item is worth in the reward, all terms weighed."""
        terms = self.term_gains(users)
        out = torch.zeros(users.numel(), self.context.dataset.num_items, device=self.context.device)
        for name, gain in terms.items():
            out.add_(gain, alpha=self.weights[name])
        return out

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Look the lists up in the gains; episodes of one user that stand together share the look-up."""
        some, index = torch.unique_consecutive(users, return_inverse=True)
        terms = {
            # In float64, so that an episode's reward does not depend on the batch that it is summed in.
            name: (gain[index[:, None], lists] * self.discount).double().sum(1).float()  # (B,)
            for name, gain in self.term_gains(some).items()
        }
        total = torch.stack([self.weights[name] * value for name, value in terms.items()]).sum(0)
        return total, terms


class CallableReward(Reward):
    """A user's own function of (scores (B, I), users (B,)), its output checked at every call."""

    term_names = ("custom",)

    def __init__(self, context: RewardContext, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Wrap ``function``."""
        super().__init__(context)
        self.function = function

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Call the function; ValueError if it does not give (B,) finite numbers."""
        value = torch.as_tensor(self.function(scores, users), device=scores.device)
        name = getattr(self.function, "__name__", type(self.function).__name__)
        if value.shape != users.shape:
            raise ValueError(f"reward {name!r} gave shape {tuple(value.shape)}, expected {tuple(users.shape)}: one number each")
        value = value.float()  # integer counts must not meet integer arithmetic later
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"reward {name!r} gave NaN or infinity")
        return value, {"custom": value}


def rank_discount(name: str, k: int) -> Tensor:
    """(K,) weights of the ranks that sum to 1.

    Args:
        name: ``"flat"`` (1 / K each: the list's mean) or ``"log"`` (1 / log2(rank + 1), scaled).
        k: K.

    Raises:
        ValueError: for another name.
    """
    if name == "flat":
        return torch.full((k,), 1.0 / k)
    if name == "log":
        weight = discounts(k)
        return weight / weight.sum()
    raise ValueError(f"discount={name!r} must be 'flat' or 'log'")
