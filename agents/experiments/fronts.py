"""Fronts of two objectives: which points are on one, the area that it dominates, and its interval.

An area is a share of a box: from ``FLOOR`` times to once the start's NDCG, and from the start's value of the
goal to the best of all points. It may be above 1, as points may have a higher NDCG than the start.

Letters: P points, n users, I items, K list length, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from refit_env.evaluation.catalogue import Catalogue
from refit_env.evaluation.selection import LESS_IS_BETTER

Floats = npt.NDArray[np.float64]
FLOOR = 0.9
"""Share of the start's NDCG below which a point counts nothing."""
OF_COUNTS = ("coverage", "gini", "rsp")
"""Goals that are no mean over users."""


def direction(goal: str) -> int:
    """Return 1 where more of a goal is better, -1 where less is.

    Example:
        >>> direction("coverage@20"), direction("gini@20")
        (1, -1)
    """
    return -1 if goal.partition("@")[0] in LESS_IS_BETTER else 1


def on_front(x: Floats, y: Floats) -> npt.NDArray[np.int64]:
    """Return the points that no other point dominates, by descending x; more of both is better.

    Example:
        >>> on_front(np.array([3.0, 1.0, 2.0, 2.0]), np.array([0.0, 2.0, 1.0, 0.5])).tolist()
        [0, 2, 1]
    """
    kept, highest = [], -np.inf
    for place in np.lexsort((-y, -x)):
        if y[place] > highest:
            kept.append(int(place))
            highest = y[place]
    return np.array(kept, np.int64)


def area(x: Floats, y: Floats) -> float:
    """Return the area that points (P,) dominate above 0 in both.

    Example:
        >>> area(np.array([1.0, 0.5]), np.array([0.5, 1.0]))
        0.75
        >>> area(np.array([-1.0]), np.array([1.0]))
        0.0
    """
    total, low = 0.0, 0.0
    front = on_front(x, y)
    for place in front:  # descending x, ascending y
        total += max(x[place], 0.0) * max(y[place] - low, 0.0)
        low = max(low, y[place])
    return float(total)


@dataclass(frozen=True)
class Box:
    """The scale of a front's axes.

    Attributes:
        sign: of the goal, see ``direction``.
        width: of the goal from the start to the best point.
    """

    sign: int
    width: float

    @classmethod
    def of(cls, goal: str, start: float, values: Floats) -> Box:
        """Return the box of a goal from its value at the start and of all points."""
        sign = direction(goal)
        return cls(sign, max(float((sign * (values - start)).max(initial=0.0)), 1e-12))

    def area(self, ndcg: Floats, goal: Floats, start: tuple[float, float]) -> float:
        """Return the area of points (P,), as a share of the box whose corner ``start`` is (NDCG, goal)."""
        x = (ndcg / start[0] - FLOOR) / (1 - FLOOR)
        return area(x, self.sign * (goal - start[1]) / self.width)


def user_weights(groups: npt.ArrayLike, resamples: int, seed: int) -> Floats:
    """Return weights (R, n) of a Bayesian bootstrap (Rubin, 1981); each row has mean 1.

    Unlike a resampling with replacement, it keeps every user, so that the coverage of the lists stays.

    Args:
        groups: (n,) int, users with one number have one weight.
        resamples: R.
        seed: of the weights.
    """
    together = np.unique(np.asarray(groups), return_inverse=True)[1]  # (n,)
    drawn = np.random.default_rng(seed).exponential(size=(resamples, int(together.max()) + 1))
    weights = drawn[:, together]
    return np.asarray(weights / weights.mean(1, keepdims=True), np.float64)


def weighted_goal(
    name: str,
    lists: npt.NDArray[np.int64],
    per_user: Floats | None,
    weights: Floats,
    catalogue: Catalogue,
    masked: sp.csr_matrix,
) -> Floats:
    """Return a goal (R,) under weights of the users.

    Args:
        name: of the metric, without the list length.
        lists: (n, K); -1 is an empty place.
        per_user: (n,) its values, where it is a mean over users.
        weights: (R, n).
        catalogue: facts of the items.
        masked: (n, I) the items that no list may hold.
    """
    if per_user is not None:
        return np.asarray(weights @ per_user / weights.shape[1], np.float64)
    there = lists >= 0
    rows = np.repeat(np.arange(len(lists)), there.sum(1))
    shape = (len(lists), catalogue.num_items)
    held = sp.csr_matrix((np.ones(rows.size), (rows, lists[there])), shape)
    counts = np.asarray((held.T @ weights.T).T)  # (R, I)
    if name == "coverage":
        return np.asarray((counts > 0).mean(1), np.float64)
    if name == "gini":
        ordered = np.sort(counts, axis=1)
        rank = np.arange(1, shape[1] + 1)
        return np.asarray((ordered @ (2 * rank - shape[1] - 1)) / (shape[1] * ordered.sum(1)), np.float64)
    candidates = weights.sum(1, keepdims=True) - np.asarray((masked.T @ weights.T).T)  # (R, I)
    share = (counts @ catalogue.groups) / np.maximum(candidates @ catalogue.groups, 1e-12)  # (R, G)
    return np.asarray(share.std(1) / np.maximum(share.mean(1), 1e-12), np.float64)


def pooled_interval(
    draws: Sequence[Sequence[float]], confidence: float = 0.95, resamples: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean over seeds and the ends of its interval, over seeds and over users.

    Each resample draws seeds with replacement, and of each drawn seed one of its bootstrap values over users.

    Args:
        draws: for each seed, its bootstrap values.
        confidence: between 0 and 1.
        resamples: number of resamples.
        seed: of the resampling.

    Example:
        >>> pooled_interval([[1.0, 1.0], [1.0, 1.0]])
        (1.0, 1.0, 1.0)
    """
    rng = np.random.default_rng(seed)
    tables = [np.asarray(values, np.float64) for values in draws]
    chosen = rng.integers(0, len(tables), size=(resamples, len(tables)))
    each = np.stack([table[rng.integers(0, table.size, size=chosen.shape)] for table in tables])  # (S, r, S)
    picked = np.take_along_axis(each, chosen[None], axis=0)[0]  # (r, S)
    tail = (1 - confidence) / 2
    low, high = np.quantile(picked.mean(1), [tail, 1 - tail])
    return float(np.mean([table.mean() for table in tables])), float(low), float(high)
