"""Rewards that depend on the target's own relevant items alone.

Letters: B users in the batch, I items, K list length, n relevant items of the batch.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from refit_env.evaluation.metrics import discounts, ideal_dcg
from refit_env.rewards.base import ListReward, Reward, rank_discount
from refit_env.rewards.context import RewardContext


class RelevantItems(ListReward):
    """Base of list rewards in which a relevant item i gains user_scale[u] * item_weight[i].

    Attributes:
        item_weight: (I,) float32, or None for 1.
    """

    item_weight: Tensor | None = None
    counts_relevant: ClassVar[bool] = True

    def user_scale(self, users: Tensor) -> Tensor:
        """(B,) float32, the gain of a relevant item of each user; 1 unless a subclass overrides it."""
        return torch.ones(users.numel(), device=users.device)

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """Return the gain of each relevant item, 0 elsewhere (B, I)."""
        gain = self.context.relevant.dense(users) * self.user_scale(users)[:, None]
        return {self.term_names[0]: gain if self.item_weight is None else gain * self.item_weight}

    def term_gains_at(self, users: Tensor, lists: Tensor) -> dict[str, Tensor]:
        """Return the same at the lists' items (B, K), without dense rows."""
        gain = self.context.relevant.at(users, lists) * self.user_scale(users)[:, None]
        return {self.term_names[0]: gain if self.item_weight is None else gain * self.item_weight[lists]}


class TargetHits(RelevantItems):
    """``r_ra`` (the paper's ablation r_RA), alias ``precision``: hits in the target's items over K."""

    def __init__(self, context: RewardContext, *, discount: str = "flat") -> None:
        """``discount``: ``"flat"`` counts hits, ``"log"`` has the rank weights of DCG."""
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
    counts_relevant: ClassVar[bool] = True

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Find each list's first hit."""
        rank = torch.arange(1, lists.shape[1] + 1, device=lists.device)
        value = (self.context.relevant.at(users, lists) / rank).amax(1)  # (B,)
        return value, {"reciprocal_rank": value}


class LogRank(Reward):
    """``log_rank``: 1 / log2(rank + 1) of the best-ranked relevant item, however low; 1 at the top.

    With one relevant item (sequential sets) it is NDCG without a cut: a target below the list still raises
    the reward as it rises, so that a weak model has a gradient.
    """

    term_names = ("log_rank",)
    counts_relevant: ClassVar[bool] = True

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Count the items above the best relevant one; ties go to the lower id."""
        value = torch.cat([self._best(s, u) for s, u in self.context.masked(scores, users, -math.inf)])
        return value, {"log_rank": value}

    def _best(self, scores: Tensor, users: Tensor) -> Tensor:
        """(B,) of scores (B, I) in which masked items are -inf; 0 where all relevant items are masked."""
        row, item, _ = self.context.relevant.entries(users)  # (n,) each, ids ascending in each row
        own = scores[row, item]  # (n,)
        best = torch.full((users.numel(),), -math.inf, device=scores.device, dtype=scores.dtype)
        best = best.scatter_reduce(0, row, own, "amax")  # (B,)
        first = torch.full((users.numel(),), scores.shape[1], device=scores.device)
        at_best = torch.where(own == best[row], item, scores.shape[1])  # (n,)
        first = first.scatter_reduce(0, row, at_best, "amin")  # (B,) the lowest id among the best
        above = (scores > best[:, None]).sum(1)  # (B,)
        tied = (scores == best[:, None]).sum(1)  # (B,) itself included
        if bool((tied > 1).any()):  # rare, so that most calls skip the second pass
            ids = torch.arange(scores.shape[1], device=scores.device)
            above = above + ((scores == best[:, None]) & (ids < first[:, None])).sum(1)
        return torch.where(best > -math.inf, 1.0 / torch.log2(above.float() + 2.0), 0.0)


class Cosine(Reward):
    """``r_cos`` (the paper's ablation): cosine of u_0 and the relevant vector, masked items excluded."""

    term_names = ("cosine",)
    counts_relevant: ClassVar[bool] = True

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Dot product over lengths; 0 where a vector is 0."""
        parts = self.context.masked(scores, users, 0.0)
        value = torch.cat([self._cosine(part, some) for part, some in parts]).float()  # (B,)
        return value, {"cosine": value}

    def _cosine(self, scores: Tensor, users: Tensor) -> Tensor:
        """(B,) float64, so that an episode's reward does not depend on the batch that it is summed in."""
        row, item, _ = self.context.relevant.entries(users)  # (n,) each
        dot = torch.zeros(users.numel(), dtype=torch.float64, device=scores.device)
        dot.index_add_(0, row, scores[row, item].double())  # (B,)
        length: Tensor = torch.linalg.vector_norm(scores, dim=1, dtype=torch.float64)  # (B,)
        length = length * self.context.relevant.counts(users).double().sqrt()
        return dot / length.clamp(min=1e-12)
