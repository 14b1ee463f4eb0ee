"""Rewards beyond accuracy: novelty, long tail, diversity, coverage, popularity-corrected hits.

Alone they reward irrelevant lists; they are meant for mixes, ``{"racs": 1.0, "diversity": 0.1}``.

Letters: B users in the batch, I items, K list length, U users of the data set, n interactions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import scipy.sparse as sp
import torch
from msgspec import Meta
from torch import Tensor

from refit_env.data.dataset import Dataset, RowDataset
from refit_env.data.interactions import Interactions
from refit_env.data.rows import SparseRows
from refit_env.evaluation.catalogue import Catalogue, catalogue_of
from refit_env.rewards.accuracy import RelevantItems
from refit_env.rewards.base import ListReward, Reward, rank_discount
from refit_env.rewards.context import RewardContext
from refit_env.rewards.item_texts import text_vectors
from refit_env.settings import Nonnegative, OneOf, Share, check_setting


class ItemReward(ListReward):
    """Base of list rewards with the same gains for every user: the list's mean of a number per item."""

    def __init__(self, context: RewardContext, name: str, gain: Tensor) -> None:
        """``gain``: (I,) the gain of each item."""
        super().__init__(context, rank_discount("flat", context.k), {name: 1.0})
        self.item_gain = gain.float().to(context.device)

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """Return the same row for each user."""
        return {self.term_names[0]: self.item_gain.expand(users.numel(), -1)}

    def term_gains_at(self, users: Tensor, lists: Tensor) -> dict[str, Tensor]:
        """Return the lists' items' numbers (B, K)."""
        return {self.term_names[0]: self.item_gain[lists]}


class Novelty(ItemReward):
    """``novelty``: mean self-information of the list's items, -log2(p_i) / log2(U).

    p_i is the share of users with the item among their visible ones (Vargas and Castells, RecSys 2011); an
    item without users counts as one user's, so gains are in 0..1.
    """

    def __init__(self, context: RewardContext) -> None:
        """No settings but the context's."""
        users = max(context.num_users, 2)
        gain = -np.log2(np.maximum(context.popularity, 1.0) / users) / np.log2(users)
        super().__init__(context, "novelty", torch.as_tensor(gain))


class LongTail(ItemReward):
    """``long_tail``: share of the list outside the head, the most popular items of the catalogue.

    The head is the fewest items that make up the share ``head`` of all visible interactions (Abdollahpouri,
    Burke and Mobasher, 2019: the head takes 80 %).
    """

    def __init__(self, context: RewardContext, *, head: float = 0.8) -> None:
        """``head`` in 0..1; among equally popular items the lower ids come first."""
        check_setting("head", head, Share)
        order = np.argsort(-context.popularity, kind="stable")
        before = np.cumsum(context.popularity[order]) - context.popularity[order]  # of more popular items
        gain = np.zeros(context.num_items, dtype=np.float32)
        gain[order] = before >= head * context.popularity.sum()
        super().__init__(context, "long_tail", torch.as_tensor(gain))


def visible_catalogue(context: RewardContext) -> Catalogue:
    """Return popularity, groups and vectors of the catalogue, from the visible interactions alone.

    The rows of a sequential set hold validation and test targets as histories of later rows, so that not all
    rows may be read.
    """
    data, visible = context.dataset, context.relevance.visible
    if not isinstance(data, RowDataset):
        return catalogue_of(data.showing(visible))
    users, items = visible.nonzero()
    shown = Interactions.from_pairs(users, items, *visible.shape)
    return Catalogue(Dataset(data.name, "cf", shown, shown, shown, False, item_features=data.item_features))


class AllLists(ListReward):
    """Base of list rewards that depend on the lists of all users.

    Those are a user-based nearest-neighbour recommender's until ``refresh`` replaces them by a model's.
    """

    def __init__(self, context: RewardContext, discount: Tensor, weights: Mapping[str, float]) -> None:
        """Set the discount (K,) and the terms' weights."""
        super().__init__(context, discount, weights)
        self._lists: Tensor | None = None
        self._shown: Tensor | None = None

    @property
    def uses_lists(self) -> bool:
        """True."""
        return True

    @property
    def lists(self) -> Tensor:
        """(U, K) all users' lists."""
        return self.context.reference_lists() if self._lists is None else self._lists

    def set_lists(self, lists: Tensor) -> None:
        """Replace all users' lists (U, K)."""
        self._lists = self.context.checked_lists(lists)
        self._shown = None

    def shown(self) -> Tensor:
        """(I,) number of users whose lists hold each item."""
        if self._shown is None:
            lists = self.lists[self.context.peers]  # (n, K)
            self._shown = torch.bincount(lists.flatten(), minlength=self.context.num_items).float()
        return self._shown


class Coverage(AllLists):
    """``coverage``: mean over the list of 1 / (1 + number of other users whose lists hold the item).

    The sum over all users and ranks of 1 / (number of users whose lists hold the item) is the number of
    distinct items in all lists, the aggregate diversity of Adomavicius and Kwon (2012); an item's gain is the
    user's share of it.
    The others' lists are those of a user-based nearest-neighbour recommender until ``refresh`` replaces them
    by a model's.
    """

    def __init__(self, context: RewardContext) -> None:
        """No settings but the context's."""
        super().__init__(context, rank_discount("flat", context.k), {"coverage": 1.0})

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """Return the gains, without the user's own list in the counts."""
        own = torch.zeros(users.numel(), self.context.num_items, device=self.context.device)
        own.scatter_(1, self.lists[users], 1.0)  # (B, I)
        return {"coverage": 1.0 / (1.0 + self.shown() - own)}

    def term_gains_at(self, users: Tensor, lists: Tensor) -> dict[str, Tensor]:
        """Return the same at the lists' items (B, K)."""
        own = (lists[:, :, None] == self.lists[users][:, None, :]).any(2)  # (B, K)
        return {"coverage": 1.0 / (1.0 + self.shown()[lists] - own.float())}


class UnbiasedHits(RelevantItems):
    """``unbiased_hits``: hits with the weights (popularity / highest popularity)^-power, over K.

    An inverse-propensity correction with propensity proportional to popularity^power (Yang et al., RecSys
    2018, power 0.5), the weight capped at ``cap``, and divided by it so that the reward lies in 0..1.
    """

    def __init__(self, context: RewardContext, *, power: float = 0.5, cap: float = 10.0) -> None:
        """``power`` 0 is plain hits over ``cap``; ``cap`` >= 1 limits the weight of rare items."""
        check_setting("power", power, Nonnegative)
        check_setting("cap", cap, Annotated[float, Meta(ge=1)])
        super().__init__(context, rank_discount("flat", context.k), {"unbiased_hits": 1.0})
        share = np.maximum(context.popularity, 1.0) / max(context.popularity.max(), 1.0)
        weight = np.minimum(share**-power, cap) / cap
        self.item_weight = torch.as_tensor(weight, dtype=torch.float32, device=context.device)  # (I,)


class Diversity(Reward):
    """``diversity``: intra-list distance, 1 - mean cosine of the vectors of two items of the list.

    The mean is over all pairs (Ziegler et al., WWW 2005), computed without an item-item matrix: with unit
    vectors c_i, the sum over pairs is (|sum_i c_i|^2 - sum_i |c_i|^2) / 2. An item without a vector has
    the largest distance, 1, to any other. Not additive over the list, so no list reward. A list of one has
    diversity 0.
    """

    term_names = ("diversity",)

    def __init__(self, context: RewardContext, *, by: str = "interactions") -> None:
        """Make the items' vectors.

        Args:
            context: data, relevance, K.
            by: ``"interactions"``: the item's column of visible interactions. ``"catalogue"``: its
                categories, else its factors, as the metric ``ild``. ``"text"``: the words of its texts
                (``title``, ``text``, ``description`` or ``genres`` of ``items.parquet``), weighted by TF-IDF.

        Raises:
            ValueError: for ``"text"`` where the items have none.
        """
        check_setting("by", by, Annotated[str, OneOf(("interactions", "catalogue", "text"))])
        super().__init__(context)
        if by == "interactions":
            table = sp.csr_matrix(context.relevance.visible.T)  # (I, U)
            length = np.sqrt(np.maximum(context.popularity, 1.0))
        else:
            table = sp.csr_matrix(
                visible_catalogue(context).vectors if by == "catalogue" else text_vectors(context.dataset)
            )
            square = np.asarray(table.multiply(table).sum(1)).ravel()
            length = np.sqrt(np.where(square > 0, square, 1.0))
        unit = sp.csr_matrix(sp.diags(1.0 / length) @ table)  # (I, d)
        self._vectors = SparseRows(unit, context.device)
        self._size = table.shape[1]
        self._there = torch.as_tensor(unit.getnnz(axis=1) > 0, device=context.device)  # (I,)

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the distance of a few episodes at a time, because sums of vectors are dense."""
        size = max(1, 2**22 // self._size)
        value = torch.cat([self._distance(some) for some in torch.split(lists, size)]).float()  # (B,)
        return value, {"diversity": value}

    def _distance(self, lists: Tensor) -> Tensor:
        """(B,) float64 from lists (B, K)."""
        batch, k = lists.shape
        if k == 1:
            return torch.zeros(batch, dtype=torch.float64, device=lists.device)
        place, part, value = self._vectors.entries(lists.flatten())  # (n,) each
        total = torch.zeros(batch * self._size, dtype=torch.float64, device=lists.device)
        total.index_add_(0, place // k * self._size + part, value.double())
        squares = self._there[lists].double().sum(1)  # (B,) sum of |c_i|^2
        pairs = total.view(batch, -1).square().sum(1) - squares  # (B,) twice the sum over pairs
        return 1.0 - pairs / (k * (k - 1))
