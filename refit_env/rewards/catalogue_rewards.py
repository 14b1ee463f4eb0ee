"""Rewards by groups, vectors and popularity of the catalogue: calibration, exposure fairness, serendipity.

Calibration and diversity of a list are no sums over its items. ``marginal_calibration`` and
``marginal_diversity`` are: they reward an item by what it adds to the user's present list.

They are the metrics of the same names in ``refit_env.evaluation.beyond_accuracy``, as rewards. Groups are the
items' categories where the data set has them, else clusters of the visible interactions
(``refit_env.evaluation.catalogue``). They are meant for mixes, ``{"ndcg": 1.0, "calibration": 0.1}``.

Letters: B users in the batch, U users, I items, K list length, G groups, n users with lists.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from refit_env.evaluation.beyond_accuracy import SMOOTHING
from refit_env.rewards.base import Reward, rank_discount
from refit_env.rewards.beyond_accuracy import AllLists, visible_catalogue
from refit_env.rewards.context import RewardContext
from refit_env.settings import OneOf, check_setting

GROUPINGS = ("catalogue", "popularity")
"""Names for the ``groups`` of ``exposure_fairness``."""


class AveragePrecision(Reward):
    """``average_precision``: the mean, over the relevant items, of the precision at the rank of each hit.

    AP@K = 1 / min(K, relevant items) * sum over hits at rank j of (hits up to j) / j. A hit raises the
    precision of those below it, so it is no sum over the list.
    """

    term_names = ("average_precision",)
    counts_relevant: ClassVar[bool] = True

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Count the hits up to each rank."""
        hit = self.context.relevant.at(users, lists).double()  # (B, K)
        rank = torch.arange(1, lists.shape[1] + 1, device=lists.device)  # (K,)
        ideal = self.context.relevant.counts(users).clamp(min=1, max=self.k)  # (B,)
        value = ((hit.cumsum(1) / rank * hit).sum(1) / ideal).float()  # (B,)
        return value, {"average_precision": value}


class Calibration(Reward):
    """``calibration``: minus KL(p || q~) of a user's visible items to the list over item groups; at most 0.

    q~ = (1 - a) q + a p with a = 0.01; p and q are the mean shares of the groups in the visible items and in
    the list (Steck, RecSys 2018). The logarithm of the list's sum makes it no sum over the list.
    """

    term_names = ("calibration",)

    def __init__(self, context: RewardContext) -> None:
        """No settings but the context's."""
        super().__init__(context)
        catalogue = visible_catalogue(context)
        self._groups = torch.from_numpy(catalogue.groups).double().to(context.device)  # (I, G)
        self._taste = torch.from_numpy(catalogue.taste).double().to(context.device)  # (U, G)

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare the groups of each list with those of its user."""
        own = self._taste[users]  # (B, G)
        smooth = smoothed(self._groups[lists].mean(1), own)  # (B, G)
        ratio = torch.where(own > 0, own / smooth.clamp(min=1e-30), 1.0)
        value = -(own * ratio.log()).sum(1).float()  # (B,)
        return value, {"calibration": value}


class Serendipity(Reward):
    """``serendipity``: hits that popularity would have ranked lower, the mean of hit * max(p_u - p, 0).

    p_u = (I + 1 - rank in the list) / I and p = (I + 1 - rank by popularity) / I, as in RecTools. Gains
    depend on rank and item together, so it is no sum over the list with rank discounts.
    """

    term_names = ("serendipity",)
    counts_relevant: ClassVar[bool] = True

    def __init__(self, context: RewardContext) -> None:
        """No settings but the context's."""
        super().__init__(context)
        order = np.argsort(-context.popularity, kind="stable")
        rank = np.empty(context.num_items, np.int64)
        rank[order] = np.arange(1, context.num_items + 1)
        self._rank = torch.as_tensor(rank, device=context.device)  # (I,) 1 is the most popular

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare each hit's rank with its rank by popularity."""
        own = torch.arange(1, lists.shape[1] + 1, device=lists.device)  # (K,)
        above = (self._rank[lists] - own).clamp(min=0).double() / self.context.num_items  # (B, K)
        value = (above * self.context.relevant.at(users, lists)).mean(1).float()  # (B,)
        return value, {"serendipity": value}


class ExposureFairness(AllLists):
    """``exposure_fairness``: how much less than average the groups of the list's items are shown.

    With s_g the share of the candidates of group g that all users' lists hold, an item gains
    sum_g p(g|i) (1 - s_g / mean s): above 0 in groups that are shown less than average. Ascent equalises the
    s_g, which is ranking-based statistical parity (Zhu, Wang and Caverlee, SIGIR 2020); its metric is
    ``rsp``.
    """

    def __init__(self, context: RewardContext, *, groups: str = "catalogue") -> None:
        """``groups``: ``"catalogue"`` (categories or clusters) or ``"popularity"`` (head and long tail)."""
        check_setting("groups", groups, Annotated[str, OneOf(GROUPINGS)])
        super().__init__(context, rank_discount("flat", context.k), {"exposure_fairness": 1.0})
        catalogue = visible_catalogue(context)
        head = np.stack([~catalogue.tail, catalogue.tail], 1)
        table = catalogue.groups if groups == "catalogue" else head
        self._groups = torch.as_tensor(table, dtype=torch.float64, device=context.device)  # (I, G)
        hidden = context.relevance.hidden
        masked = 0.0 if hidden is None else np.asarray(hidden[context.peers.cpu().numpy()].sum(0)).ravel()
        candidates = torch.as_tensor(context.peers.numel() - masked + np.zeros(context.num_items))
        self._candidates = candidates.double().to(context.device) @ self._groups  # (G,)

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """Return the same row of gains for each user."""
        return {"exposure_fairness": self.item_gains().expand(users.numel(), -1)}

    def term_gains_at(self, users: Tensor, lists: Tensor) -> dict[str, Tensor]:
        """Return the gains of the lists' items (B, K)."""
        return {"exposure_fairness": self.item_gains()[lists]}

    def item_gains(self) -> Tensor:
        """(I,) the gain of each item."""
        share = (self.shown().double() @ self._groups) / self._candidates.clamp(min=1e-12)  # (G,)
        there = self._candidates > 0
        less = torch.where(there, 1 - share / share[there].mean().clamp(min=1e-30), 0.0)  # (G,)
        return (self._groups @ less).float()


class OwnList(AllLists):
    """Base of list rewards that depend on the user's present list: what an item adds to it.

    A reward that is no sum over the list becomes one at that list, so that estimators of low variance apply.
    """

    def lists_read(self, users: Tensor) -> Tensor:
        """Return the users themselves, each once."""
        read: Tensor = torch.unique(users)
        return read


class MarginalDiversity(OwnList):
    """``marginal_diversity``: mean distance of the list's items to the others of the user's present list.

    An item i gains the mean of 1 - cos(c_i, c_j) over the items j of that list, itself left out. The present
    list itself has the reward ``diversity`` with ``by="catalogue"``, which is the metric ``ild``; an exchange
    of one item changes that metric about twice as much as this reward.
    The present list is a user-based nearest-neighbour recommender's until ``refresh`` replaces it by a
    model's.
    """

    def __init__(self, context: RewardContext) -> None:
        """No settings but the context's."""
        super().__init__(context, rank_discount("flat", context.k), {"marginal_diversity": 1.0})
        vectors = visible_catalogue(context).vectors
        self._vectors = torch.from_numpy(vectors).double().to(context.device)  # (I, d)
        self._squares = self._vectors.square().sum(1)  # (I,)

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """Return the mean distances (B, I)."""
        own = self.lists[users]  # (B, K)
        inside = torch.zeros(users.numel(), self.context.num_items, dtype=torch.float64, device=own.device)
        inside.scatter_(1, own, 1.0)  # (B, I)
        near = self._vectors[own].sum(1) @ self._vectors.T - inside * self._squares  # (B, I)
        others = self.k - inside  # (B, I) number of the list's other items
        distance = torch.where(others > 0, 1 - near / others.clamp(min=1), 0.0)
        return {"marginal_diversity": distance.float()}


class MarginalCalibration(OwnList):
    """``marginal_calibration``: what the list's items add to the calibration of the user's present list.

    With p the groups of the visible items and q~ those of the present list, smoothed as in ``calibration``,
    an item i gains sum_g p(g|i) K p_g log(1 + (1 - a) / (K q~_g)): each group's part of the growth of
    -KL(p || q~) where the list had one more item of the group. Groups that the list lacks gain most.
    The present list is a user-based nearest-neighbour recommender's until ``refresh`` replaces it by a
    model's.
    """

    def __init__(self, context: RewardContext) -> None:
        """No settings but the context's."""
        super().__init__(context, rank_discount("flat", context.k), {"marginal_calibration": 1.0})
        catalogue = visible_catalogue(context)
        self._groups = torch.from_numpy(catalogue.groups).double().to(context.device)  # (I, G)
        self._taste = torch.from_numpy(catalogue.taste).double().to(context.device)  # (U, G)

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """Return the sums over the groups (B, I)."""
        own = self._taste[users]  # (B, G)
        smooth = smoothed(self._groups[self.lists[users]].mean(1), own).clamp(min=1e-30)  # (B, G)
        more = self.k * own * torch.log1p((1 - SMOOTHING) / (self.k * smooth))  # (B, G)
        return {"marginal_calibration": (more @ self._groups.T).float()}


def smoothed(groups: Tensor, own: Tensor) -> Tensor:
    """(B, G) q~ = (1 - a) q + a p, from q of the lists and p of the users, (B, G) each."""
    return (1 - SMOOTHING) * groups + SMOOTHING * own
