"""What the lists of two models are, user by user: gains by activity, popularity of the items, coverage.

Letters: n evaluated users, I items, K list length, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refit_env.data import Dataset
from refit_env.evaluation.ranking import Evaluation, evaluate, nearest_metric
from refit_env.evaluation.slices import FEW, slices
from refit_env.evaluation.statistics import PairedBootstrap, paired_bootstrap
from refit_env.policy import DiffusionPolicy

GROUPS = 10
"""Groups of users by activity, and of items by popularity."""
RESAMPLES = 2_000
"""Number of bootstrap resamples of the intervals of groups."""
EQUAL = 1e-9
"""Gains within this are none."""


@dataclass(frozen=True, eq=False)
class Measured:
    """Two models on the same users of a data set; ``before`` is None where there is one model.

    Attributes:
        dataset: the data set; the users of a sequential set are its rows.
        before: evaluation of the start.
        after: evaluation of the run's model.
        metric: name of NDCG of the longest list.
    """

    dataset: Dataset
    before: Evaluation | None
    after: Evaluation
    metric: str

    @property
    def gain(self) -> npt.NDArray[np.float64]:
        """(n,) ``after - before`` of the metric; zeros without ``before``."""
        after = self.after.per_user[self.metric]
        return np.zeros_like(after) if self.before is None else after - self.before.per_user[self.metric]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(n,) train items of each evaluated user."""
        return self.dataset.episodes.train.counts[self.after.users]


@dataclass(frozen=True)
class Mover:
    """An item that lists hold more or less often."""

    item: int
    """Its number."""
    train: int
    """Train interactions."""
    before: int
    """Lists that held it."""
    after: int
    """Lists that hold it."""


@dataclass(frozen=True)
class Group:
    """The users of one group.

    Attributes:
        name: of the group.
        difference: of the metric, with its interval over the group's users.
    """

    name: str
    difference: PairedBootstrap


def measure_lists(
    before: DiffusionPolicy | None, after: DiffusionPolicy, dataset: Dataset, device: object = "cpu"
) -> Measured:
    """Evaluate both models on the test items.

    Args:
        before: the start, or None.
        after: the run's model.
        dataset: the data set that they rank.
        device: of the models.
    """
    found = [
        None if policy is None else evaluate(policy.scorer(dataset), dataset, "test", device=str(device))
        for policy in (before, after)
    ]
    assert found[1] is not None
    return Measured(dataset, found[0], found[1], nearest_metric("ndcg@20", found[1].per_user))


def by_activity(measured: Measured, groups: int = GROUPS) -> list[Group]:
    """Return the gain of groups of users with equally many users, those with the fewest train items first."""
    if measured.before is None:
        return []
    counts = measured.counts  # (n,)
    order = np.argsort(counts, kind="stable")
    out = []
    for users in np.array_split(order, min(groups, order.size)):
        low, high = int(counts[users].min()), int(counts[users].max())
        out.append(_group(f"{low}" if low == high else f"{low}-{high}", measured, users))
    return out


def cold_users(measured: Measured) -> Group | None:
    """Return the gain of the users with fewer than 5 train items; None where there are none."""
    cold = np.flatnonzero(measured.counts < FEW)
    if measured.before is None or not cold.size:
        return None
    return _group(f"fewer than {FEW} train items", measured, cold)


def by_item_kind(measured: Measured) -> list[tuple[str, float, float]]:
    """Return the metric over popular and over long-tail relevant items: (name, before, after)."""
    if measured.before is None:
        return []
    old, new = (slices(found, measured.dataset) for found in (measured.before, measured.after))
    return [
        (name, old[name].means()[measured.metric], new[name].means()[measured.metric])
        for name in ("popular", "tail")
        if old[name].means() and new[name].means()
    ]


def counts_of_gains(measured: Measured) -> tuple[int, int, int]:
    """Return numbers of users whose metric rose, stayed, and fell."""
    gain = measured.gain
    return int((gain > EQUAL).sum()), int((abs(gain) <= EQUAL).sum()), int((gain < -EQUAL).sum())


def histogram(values: npt.NDArray[np.float64], bins: int = 20) -> tuple[list[float], list[int]]:
    """Return the edges of bins that are symmetric around 0, and how many values other than 0 each holds.

    The bins reach as far as 98 % of the values; the outer two also hold what is beyond.

    Example:
        >>> edges, counts = histogram(np.array([-1.0, 0.0, 0.0, 0.2, 1.0]), bins=4)
        >>> edges, counts
        ([-1.0, -0.5, 0.0, 0.5, 1.0], [1, 0, 1, 1])
    """
    moved = values[np.abs(values) > EQUAL]
    reach = float(np.quantile(np.abs(moved), 0.98)) if moved.size else 1.0
    inside = np.clip(moved, -reach, reach)
    counts, edges = np.histogram(inside, bins=bins + bins % 2, range=(-reach, reach))
    return edges.tolist(), counts.tolist()


def popularity_shares(measured: Measured, groups: int = GROUPS) -> dict[str, list[float]]:
    """Return shares of the train interactions and of list places by groups of items, most popular first.

    Args:
        measured: the models.
        groups: G, of equally many items each.

    Returns:
        ``train``, ``before`` (absent without it) and ``after`` -> (G,) shares that sum to 1.
    """
    rows = measured.dataset.episodes
    train = np.bincount(rows.train.items, minlength=rows.num_items)  # (I,)
    order = np.argsort(-train, kind="stable")
    parts = np.array_split(order, min(groups, order.size))
    counted = {"train": train}
    if measured.before is not None:
        counted["before"] = places(measured.before)
    counted["after"] = places(measured.after)
    return {
        name: [float(count[part].sum() / max(1, count.sum())) for part in parts]
        for name, count in counted.items()
    }


def movers(measured: Measured, most: int = 6) -> tuple[list[Mover], list[Mover]]:
    """Return the items that lists hold more often than before, and less often, the largest changes first."""
    if measured.before is None:
        return [], []
    old, new = places(measured.before), places(measured.after)  # (I,)
    train = np.bincount(measured.dataset.episodes.train.items, minlength=old.size)  # (I,)
    change = new - old
    up, down = np.argsort(-change, kind="stable")[:most], np.argsort(change, kind="stable")[:most]
    found = [
        [Mover(int(n), int(train[n]), int(old[n]), int(new[n])) for n in order if sign * change[n] > 0]
        for order, sign in ((up, 1), (down, -1))
    ]
    return found[0], found[1]


def places(evaluation: Evaluation) -> npt.NDArray[np.int64]:
    """Return (I,) how often each item is in a list."""
    lists = evaluation.lists
    return np.bincount(lists[lists >= 0], minlength=evaluation.num_items).astype(np.int64)


def _group(name: str, measured: Measured, users: npt.NDArray[np.int64]) -> Group:
    """A group of the evaluated users, by their places."""
    assert measured.before is not None
    old, new = measured.before.per_user[measured.metric], measured.after.per_user[measured.metric]
    groups = measured.dataset.groups_of(np.asarray(measured.after.users)[users])
    return Group(name, paired_bootstrap(old[users], new[users], groups=groups, resamples=RESAMPLES))
