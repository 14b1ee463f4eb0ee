"""Rewards beyond accuracy: novelty, the long tail, coverage of the catalogue, popularity-corrected hits.

Letters: B users in the batch, I items, K list length, U users of the data set.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from refit_env.rewards.base import ListReward, RewardContext, rank_discount


class _ItemReward(ListReward):
    """A list reward whose gains are the same for every user: one number for each item."""

    def __init__(self, context: RewardContext, name: str, gain: Tensor | None = None) -> None:
        super().__init__(context, rank_discount("flat", context.k), {name: 1.0})
        self._gain = gain

    @property
    def item_gain(self) -> Tensor:
        """(I,) what each item is worth."""
        assert self._gain is not None
        return self._gain

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """The same row for each user."""
        return {self.term_names[0]: self.item_gain.expand(users.numel(), -1)}


class Novelty(_ItemReward):
    """``novelty``: mean self-information of the list's items, -log2(p_i) / log2(U) (Vargas and Castells, 2011).

    p_i is the share of users who have the item among what is visible; an item that nobody has counts as
    one user's, so gains lie in 0..1.
    """

    def __init__(self, context: RewardContext) -> None:
        """No settings but the context's."""
        users = max(context.dataset.num_users, 2)
        gain = -np.log2(np.maximum(context.popularity, 1.0) / users) / np.log2(users)
        super().__init__(context, "novelty", torch.as_tensor(gain, dtype=torch.float32, device=context.device))


class LongTail(_ItemReward):
    """``long_tail``: share of the list outside the head, the most popular items that make up ``head`` of all interactions."""

    def __init__(self, context: RewardContext, *, head: float = 0.8) -> None:
        """``head`` in 0..1: 0.8 is the usual Pareto cut (Abdollahpouri et al., 2019)."""
        if not 0.0 <= head <= 1.0:
            raise ValueError(f"head={head} must lie in 0..1")
        order = np.argsort(-context.popularity, kind="stable")
        before = np.cumsum(context.popularity[order]) - context.popularity[order]  # interactions of more popular items
        gain = np.zeros(context.dataset.num_items, dtype=np.float32)
        gain[order] = before >= head * context.popularity.sum()
        super().__init__(context, "long_tail", torch.as_tensor(gain, device=context.device))


class Coverage(_ItemReward):
    """``coverage``: mean over the list of 1 / (1 + users in whose reference list the item stands).

    Summed over all users, sum_i 1 / count_i over the lists' items is the number of distinct items shown:
    an item's worth is its share of the catalogue's coverage. The reference lists are a user-based
    nearest-neighbour recommender's until ``set_lists`` gives others.
    """

    def __init__(self, context: RewardContext) -> None:
        """No settings but the context's."""
        super().__init__(context, "coverage")
        self._lists: Tensor | None = None

    def set_lists(self, lists: Tensor) -> None:
        """Replace the reference lists (U, K)."""
        self._lists = lists
        self.__dict__.pop("item_gain", None)

    @cached_property
    def item_gain(self) -> Tensor:  # type: ignore[override]  # made when first needed: the lists cost seconds
        """(I,) 1 / (1 + reference lists that hold the item)."""
        lists = self._lists if self._lists is not None else self.context.reference_lists()
        count = torch.bincount(lists.flatten(), minlength=self.context.dataset.num_items)
        return 1.0 / (1.0 + count.float().to(self.context.device))


class UnbiasedHits(ListReward):
    """``unbiased_hits``: hits weighed by (popularity / highest popularity)^-power, over K.

    An inverse-propensity correction with propensity proportional to popularity^power (Yang et al., RecSys
    2018, power 0.5), the weight capped at ``cap``, and divided by it so that the reward lies in 0..1.
    """

    def __init__(self, context: RewardContext, *, power: float = 0.5, cap: float = 10.0) -> None:
        """``power`` 0 is plain hits; ``cap`` >= 1 limits the weight of rare items."""
        if cap < 1.0:
            raise ValueError(f"cap={cap} must be at least 1")
        super().__init__(context, rank_discount("flat", context.k), {"unbiased_hits": 1.0})
        share = np.maximum(context.popularity, 1.0) / max(context.popularity.max(), 1.0)
        weight = np.minimum(share**-power, cap) / cap
        self.weight = torch.as_tensor(weight, dtype=torch.float32, device=context.device)  # (I,)

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """The weight of each relevant item."""
        return {"unbiased_hits": self.context.relevant.dense(users) * self.weight}
