"""Rewards that look at the target's own relevant items alone.

Letters: B users in the batch, I items, K list length.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from refit_env.metrics import check_no_nan, discounts, ideal_dcg
from refit_env.rewards.base import ListReward, Reward, rank_discount
from refit_env.rewards.context import RewardContext


class RelevantItems(ListReward):
    """Base of list rewards that pay for the target's relevant items: user_scale[u] * item_weight[i] each.

    Attributes:
        item_weight: (I,) float32, or None for 1.
    """

    item_weight: Tensor | None = None

    def user_scale(self, users: Tensor) -> Tensor:
        """(B,) float32, what a relevant item is worth to each user; 1 unless a subclass says otherwise."""
        return torch.ones(users.numel(), device=users.device)

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """The worth of each relevant item (B, I)."""
        gain = self.context.relevant.dense(users) * self.user_scale(users)[:, None]
        return {self.term_names[0]: gain if self.item_weight is None else gain * self.item_weight}

    def term_worth(self, users: Tensor, lists: Tensor) -> dict[str, Tensor]:
        """The same at the lists' items (B, K), without dense rows."""
        worth = self.context.relevant.at(users, lists) * self.user_scale(users)[:, None]
        return {self.term_names[0]: worth if self.item_weight is None else worth * self.item_weight[lists]}


class TargetHits(RelevantItems):
    """``r_ra`` (the paper's ablation r_RA) and ``precision``: hits of the list in the target's items over K."""

    def __init__(self, context: RewardContext, *, discount: str = "flat") -> None:
        """``discount``: ``"flat"`` counts hits, ``"log"`` weighs ranks as DCG does."""
        super().__init__(context, rank_discount(discount, context.k), {"n_k": 1.0})


class Ndcg(RelevantItems):
    """``ndcg``: NDCG@K with binary gains, the ideal list cut at min(K, relevant items)."""

    def __init__(self, context: RewardContext) -> None:
        """No settings but the context's."""
        super().__init__(context, discounts(context.k), {"ndcg": 1.0})

    def user_scale(self, users: Tensor) -> Tensor:
        """(B,) 1 / ideal DCG."""
        return 1.0 / ideal_dcg(self.context.relevant.counts(users), self.k)


class Recall(RelevantItems):
    """``recall``: hits over the number of relevant items."""

    def __init__(self, context: RewardContext) -> None:
        """No settings but the context's."""
        super().__init__(context, torch.ones(context.k), {"recall": 1.0})

    def user_scale(self, users: Tensor) -> Tensor:
        """(B,) 1 / number of relevant items."""
        return 1.0 / self.context.relevant.counts(users).clamp(min=1)


class ReciprocalRank(Reward):
    """``reciprocal_rank``: 1 / rank of the first hit, 0 without one."""

    term_names = ("reciprocal_rank",)

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Find each list's first hit."""
        rank = torch.arange(1, lists.shape[1] + 1, device=lists.device)
        value = (self.context.relevant.at(users, lists) / rank).amax(1)  # (B,)
        return value, {"reciprocal_rank": value}


class Cosine(Reward):
    """``r_cos`` (the paper's ablation): cosine of u_0 and the relevant vector, hidden items left out."""

    term_names = ("cosine",)

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare the scores with the relevant rows; ValueError for NaN."""
        check_no_nan(scores)
        hidden = self.hidden(users)
        if hidden is not None:
            scores = scores.masked_fill(hidden, 0.0)
        relevant = self.context.relevant.dense(users).double()  # (B, I); float64: the same in every batch
        value = functional.cosine_similarity(scores.double(), relevant, dim=1).float()  # (B,)
        return value, {"cosine": value}
