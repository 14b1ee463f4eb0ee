"""Reward models in closed form: the gain of an item is the prediction of a linear item-item model.

The train items of a user are a sparse reward, and a network of millions of weights overfits to them. A linear
item-item model, fitted in closed form to the same train split, predicts a number for every item of every
user, so the reward of an episode is dense and contains the correlations between items. It is a reward model
in the sense of learning from human feedback. Report the ranking metrics of the model itself beside those of a
policy that was trained on it.

Letters: B users in the batch, I items, K list length, U users of the data set, R train rows, N stored
values, n visible items of the batch, r rank.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from refit_env.data.dataset import Dataset, RowDataset
from refit_env.data.rows import SparseRows
from refit_env.evaluation.metrics import discounts
from refit_env.item_factors import item_factors
from refit_env.rewards.base import ListReward
from refit_env.rewards.context import RewardContext
from refit_env.rewards.ridge_solver import (
    ByItems,
    ByUsers,
    Dual,
    Regression,
    WithoutItself,
    leverages,
    on,
    times,
)
from refit_env.settings import Nonnegative, Positive, Size, check_setting
from refit_env.utils.content_cache import CACHE
from refit_env.utils.ridge import ridge_weights


@dataclass(frozen=True)
class Filters:
    """A fitted graph filter, in float64, so that a reward does not depend on the rest of its batch.

    Attributes:
        into: (I, r) from a visible row to the weighted leading directions.
        out: (r, I) from the directions to scores.
        normal: (R, I) sparse, the normalised train rows.
        transposed: (I, R) sparse.
    """

    into: Tensor
    out: Tensor
    normal: Tensor
    transposed: Tensor


class ModelReward(ListReward):
    """NDCG@K of the list with a model's predictions from the visible row as graded relevance.

    Predictions below 0 and those of masked items count as 0; the ideal list is the model's own.
    """

    term: ClassVar[str]

    def __init__(self, context: RewardContext) -> None:
        """Set the context."""
        super().__init__(context, discounts(context.k), {self.term: 1.0})
        self._last: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def predict(self, users: Tensor) -> Tensor:
        """Return the predictions (B, I) float of all items for ``users`` (B,) int64; higher is better."""

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """Return the predictions over the DCG of the model's own list; 0 for users without predictions.

        An iteration of training needs the gains of a batch twice, so they are stored until the second call,
        and no longer, because each of many hold-outs has its own reward.
        """
        last, self._last = self._last, None
        if last is not None and torch.equal(last[0], users):
            return {self.term: last[1]}
        gains = self._gains(users)
        self._last = users.clone(), gains
        return {self.term: gains}

    def _gains(self, users: Tensor) -> Tensor:
        """(B, I) the gains of ``users`` (B,)."""
        gain = self.predict(users).clamp(min=0.0)  # (B, I)
        hidden = self.hidden(users)
        if hidden is not None:
            gain = gain.masked_fill(hidden, 0.0)
        best = gain.topk(self.k, 1).values  # (B, K)
        ideal = (best * self.discount).double().sum(1, keepdim=True).float()  # (B, 1)
        return torch.where(ideal > 0, gain / ideal.clamp(min=1e-30), 0.0)


class Ease(ModelReward):
    """``ease``: EASE, the ridge regression of each item on all others (Steck, WWW 2019, arXiv 1905.03375).

    Weights W minimise |X - X W|^2 + l2 |W|^2 with a zero diagonal, X the train rows; a prediction is the
    visible row times W. In sequential and check-in sets the next item is not part of the history, so
    W minimises |T - X W|^2 + l2 |W|^2 with T the next items of the train rows and X their histories, the
    item b positions back with the weight 1 / b (the transition model of SLIST, Choi et al., WWW 2021, arXiv
    2103.16104).

    Memory I^2 and time I^3, once for a data set, or U^2 and U^3 where there are fewer users than items and
    the data set has no rows (``refit_env.rewards.ridge_solver``). Above 10,000 the system is solved in
    float32, in the memory of one matrix: 6.4 GB for 40,000. What does not fit into memory is refused.
    """

    term = "ease"

    def __init__(self, context: RewardContext, *, l2: float = 200.0, leave_one_out: bool = False) -> None:
        """Fit.

        Args:
            context: data, relevance, K.
            l2: weight of the squared weights, above 0; 50 to 500 for sets of 10,000s to 1,000,000s of rows.
            leave_one_out: predict each train row by the model that was fitted to all other rows. A model that
                was fitted to the row overfits to its target.

        Raises:
            ValueError: if ``l2`` is not a finite number above 0, the system does not fit into memory, or a
                row is to be left out of a set that has none in order.
        """
        check_setting("l2", l2, Positive)
        super().__init__(context)
        self.model: Regression = _ease(context, float(l2))
        if leave_one_out:
            self.model = _without_itself(context, self.model, float(l2))

    def predict(self, users: Tensor) -> Tensor:
        """Return the visible row times W."""
        return self.model.predict(users)


class GraphFilter(ModelReward):
    """``gf_cf``: GF-CF, a graph filter in closed form (Shen et al., CIKM 2021, arXiv 2108.07567).

    With R = D_U^-1/2 X D_I^-1/2 the normalised train rows and V its r leading right singular vectors, a
    prediction is x (R^T R + alpha D_I^-1/2 V V^T D_I^1/2), x the visible row: a linear and an ideal low-pass
    filter. Time and memory are linear in the interactions and in r * (U + I).
    """

    term = "gf_cf"

    def __init__(self, context: RewardContext, *, rank: int = 64, alpha: float = 1.0) -> None:
        """Fit.

        Args:
            context: data, relevance, K.
            rank: r; data of a lower rank have fewer.
            alpha: weight of the low-pass filter, at least 0.

        Raises:
            ValueError: if one is out of range.
        """
        check_setting("rank", rank, Size)
        check_setting("alpha", alpha, Nonnegative)
        super().__init__(context)
        self.filters = _filters(context.dataset, rank, alpha, context.device)
        self._rows = SparseRows(_visible(context), context.device)

    def predict(self, users: Tensor) -> Tensor:
        """Return the visible row through both filters."""
        low = times(self._rows, users, self.filters.into) @ self.filters.out  # (B, I)
        visible = self._rows.dense(users).double().T.contiguous()  # (I, B)
        linear = self.filters.transposed @ (self.filters.normal @ visible)  # (I, B)
        return (low + linear.T).float()


def _ease(context: RewardContext, l2: float) -> Regression:
    """EASE of a data set, fitted once, for the visible rows of the relevance.

    Raises:
        ValueError: if the system of its smaller side does not fit into memory.
    """
    dataset, device = context.dataset, context.device
    ordered = isinstance(dataset, RowDataset)
    by_users = not ordered and dataset.num_users < dataset.num_items
    side = dataset.num_users if by_users else dataset.num_items
    rows, visible = _train_rows(dataset), _visible(context)
    key, size = (rows, l2, device), 4 * side**2
    if by_users:
        dual = CACHE.get("ease by users", key, lambda: Dual(rows, l2, device), size)
        return ByUsers(dual, visible)
    targets = _targets(dataset) if isinstance(dataset, RowDataset) else None

    def solve() -> Tensor:
        return ridge_weights(rows, l2, targets, device)

    return ByItems(CACHE.get("ease", (*key, targets), solve, size), visible)


def _without_itself(context: RewardContext, model: Regression, l2: float) -> WithoutItself:
    """Return the model, in which each train row is predicted by all other rows.

    Raises:
        ValueError: if the data set has no rows in order.
    """
    dataset = context.dataset
    if not isinstance(dataset, RowDataset):
        raise ValueError(
            f"leave_one_out=True is for sequential and check-in rows, whose next item is in the fit; "
            f"{dataset.name!r} has none: hide a part of each row instead, with relevance 'holdout'"
        )
    rows = _train_rows(dataset)
    train = dataset.rows_of("train")
    targets = torch.zeros(dataset.num_users, dtype=torch.int64)
    shares = torch.zeros(dataset.num_users)
    targets[train] = torch.as_tensor(dataset.targets.items, dtype=torch.int64)
    known = CACHE.get("leverages", (rows, l2), lambda: leverages(rows, l2))
    shares[train] = torch.tensor(known, dtype=torch.float32)
    return WithoutItself(model, targets.to(context.device), shares.to(context.device))


def _filters(dataset: Dataset, rank: int, alpha: float, device: torch.device) -> Filters:
    """Return the two filters of ``GraphFilter``, cached."""
    rows = _train_rows(dataset)

    def make() -> Filters:
        by_user, by_item = (np.maximum(np.asarray(rows.sum(axis)).ravel(), 1.0) for axis in (1, 0))
        normal = sp.csr_matrix(sp.diags(by_user**-0.5) @ rows @ sp.diags(by_item**-0.5))  # (R, I)
        factors = item_factors(normal, min(rank, min(normal.shape) - 1)).astype(np.float64)  # (I, r)
        return Filters(
            torch.as_tensor(alpha * by_item[:, None] ** -0.5 * factors, device=device),
            torch.as_tensor(factors.T * by_item**0.5, device=device),
            on(normal, device),
            on(sp.csr_matrix(normal.T), device),
        )

    return CACHE.get("graph filters", (rows, rank, alpha, device), make)


def _train_rows(dataset: Dataset) -> sp.csr_matrix:
    """(R, I) float64 the rows to fit: all train items, including those that an episode hides."""
    if isinstance(dataset, RowDataset):
        return sp.csr_matrix(weighted(dataset)[dataset.rows_of("train")])
    rows = sp.csr_matrix(dataset.train.csr, dtype=np.float64, copy=True)
    rows.data[:] = 1.0
    return rows


def _targets(dataset: RowDataset) -> sp.csr_matrix:
    """(R, I) the next items of the train rows."""
    return sp.csr_matrix(dataset.targets.csr[dataset.rows_of("train")], dtype=np.float64)


def _visible(context: RewardContext) -> sp.csr_matrix:
    """(U, I) the rows to predict from: the visible items, with the weights of the fitted rows."""
    if isinstance(context.dataset, RowDataset):
        return weighted(context.dataset)
    rows = sp.csr_matrix(context.relevance.visible, dtype=np.float64, copy=True)
    rows.data[:] = 1.0
    return rows


def weighted(rows: RowDataset, decay: float = 1.0) -> sp.csr_matrix:
    """(U, I) each history, an item b positions back with the weight 1 / b^decay; repeats are summed."""
    longest = rows.history.shape[1]
    back = rows.lengths[:, None] - np.arange(longest)  # (U, L) 1 is the latest
    row, place = np.nonzero(back > 0)
    values = (1.0 / back[row, place] ** decay, (row, rows.history[row, place]))
    out = sp.csr_matrix(values, shape=(rows.num_users, rows.num_items))
    out.sum_duplicates()
    return out
