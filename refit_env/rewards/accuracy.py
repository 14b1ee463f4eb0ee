"""Rewards that look at the target's own relevant items alone.

Letters: B users in the batch, I items, K list length.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from refit_env.metrics import discounts, hits, ideal_dcg
from refit_env.rewards.base import ListReward, Reward, RewardContext, rank_discount


class TargetHits(ListReward):
    """``r_ra``: hits of the list in the target's relevant items, over K (precision@K; the paper's ablation r_RA)."""

    def __init__(self, context: RewardContext, *, discount: str = "flat") -> None:
        """``discount``: ``"flat"`` counts hits, ``"log"`` weighs ranks as DCG does."""
        super().__init__(context, rank_discount(discount, context.k), {"n_k": 1.0})

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """1 for each relevant item."""
        return {"n_k": self.context.relevant.dense(users)}


class Ndcg(ListReward):
    """``ndcg``: NDCG@K with binary gains, the ideal list cut at min(K, relevant items)."""

    def __init__(self, context: RewardContext) -> None:
        """No settings but the context's."""
        super().__init__(context, discounts(context.k), {"ndcg": 1.0})

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """1 / ideal DCG for each relevant item."""
        ideal = ideal_dcg(self.context.relevant.counts(users), self.k)  # (B,)
        return {"ndcg": self.context.relevant.dense(users) / ideal[:, None]}


class Recall(ListReward):
    """``recall``: hits over the number of relevant items."""

    def __init__(self, context: RewardContext) -> None:
        """No settings but the context's."""
        super().__init__(context, torch.ones(context.k), {"recall": 1.0})

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """1 / number of relevant items for each relevant item."""
        count = self.context.relevant.counts(users).clamp(min=1)  # (B,)
        return {"recall": self.context.relevant.dense(users) / count[:, None]}


class ReciprocalRank(Reward):
    """``reciprocal_rank``: 1 / rank of the first hit, 0 without one."""

    term_names = ("reciprocal_rank",)

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Find each list's first hit."""
        rank = torch.arange(1, lists.shape[1] + 1, device=lists.device)
        value = (hits(lists, self.context.relevant.mask(users)) / rank).amax(1)  # (B,)
        return value, {"reciprocal_rank": value}


class Cosine(Reward):
    """``r_cos``: cosine of u_0 and the relevant vector (the paper's ablation), hidden items left out of both."""

    term_names = ("cosine",)

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare the scores with the relevant rows."""
        hidden = self.hidden(users)
        if hidden is not None:
            scores = scores.masked_fill(hidden, 0.0)
        relevant = self.context.relevant.dense(users).double()  # (B, I); float64: the same in every batch
        value = functional.cosine_similarity(scores.double(), relevant, dim=1).float()  # (B,)
        return value, {"cosine": value}
