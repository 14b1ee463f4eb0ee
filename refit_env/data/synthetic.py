"""The embedded data set: clusters of items, preferences that drift, Zipf popularity, log-normal activity.

It is generated from a seed by PCG64's uniform draws. Powers, which libraries round differently, are rounded
to whole numbers at once, and all sums and comparisons use whole numbers, so a seed generates the same data on
every platform, without a file or a network.

Letters: U users, I items, C clusters, n_u events of a user.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from refit_env.data.dataset import Dataset
from refit_env.data.interactions import Interactions
from refit_env.data.splits import by_time
from refit_env.errors import SettingError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

FINE = 2.0**30
"""Factor by which weights and draws are scaled before they are rounded to whole numbers."""
DAY = 86_400.0
LEAST_ITEMS = 18
"""Smallest number of items: with fewer, a user's third of them does not give each split an item."""
TEST_MIDDLE = 0.9
"""Position of the middle of a row's test part, which is the last fifth of the row."""
SETTINGS = "synthesize"
"""Field of ``Dataset.meta`` with the arguments of ``synthesize``."""
EPOCH = 1_600_000_000.0
"""Unix time of the earliest possible event (September 2020)."""


def synthesize(
    seed: int = 0,
    num_users: int = 800,
    num_items: int = 400,
    num_clusters: int = 8,
    mean_events: float = 45.0,
    drift: float = 1.0,
    popularity: float = 0.9,
    focus: float = 0.85,
) -> Dataset:
    """Generate the synthetic data set.

    Every item belongs to a cluster and has a Zipf popularity within the catalogue. A user has a first
    cluster and drifts over time towards the next one. Each event draws a cluster (from the user's current
    mixture with probability ``focus``, else any cluster), then an unseen item of it by popularity. Rows are
    split by time within each user, 7:1:2. All users with the same first cluster drift to the same second one,
    so the late items of some histories predict the next items of others. A model that reconstructs whole
    rows, without regard to time, does not learn this.

    Args:
        seed: seed of all draws.
        num_users: U.
        num_items: I.
        num_clusters: C.
        mean_events: median of the log-normal activity; rows have 10 to I / 3 events.
        drift: probability of the second cluster at the end of the row, 0..1.
        popularity: exponent of the Zipf law.
        focus: share of events from the user's two clusters.

    Returns:
        A data set named ``"synthetic"`` with timestamps, sorted by time.

    Raises:
        SettingError: for fewer than 18 items, fewer than 3 a cluster, or no user.

    Example:
        >>> data = synthesize(seed=0)
        >>> data.num_users, data.num_items, data.time_ordered
        (800, 400, True)
    """
    settings = {
        "seed": seed,
        "num_users": num_users,
        "num_items": num_items,
        "num_clusters": num_clusters,
        "mean_events": mean_events,
        "drift": drift,
        "popularity": popularity,
        "focus": focus,
    }
    least = max(LEAST_ITEMS, 3 * num_clusters)
    if num_items < least:
        raise SettingError(
            "num_items", f"must be >= {least}, {LEAST_ITEMS} and 3 a cluster, found {num_items}"
        )
    if num_users < 1:
        raise SettingError("num_users", f"must be >= 1, found {num_users}")
    _, _, rows = _draw(settings)
    users, items, times = [], [], []
    for user, (_, chosen, when) in enumerate(rows):
        users.append(np.full(chosen.size, user, dtype=np.int64))
        items.append(chosen)
        times.append(when)
    everything = Interactions.from_pairs(
        np.concatenate(users), np.concatenate(items), num_users, num_items, np.concatenate(times)
    )
    train, valid, test = by_time(everything, valid_share=0.1, test_share=0.2)
    meta = {
        "source": [f"refit_env.data.synthesize(seed={seed})"],
        "licence": "MIT",
        "split": "by time, 7:1:2 per user",
        SETTINGS: settings,
    }
    return Dataset("synthetic", "cf", train, valid, test, time_ordered=True, meta=meta)


def true_tastes(dataset: Dataset) -> npt.NDArray[np.float64] | None:
    """Return the true probabilities of each user's next item, from which the test items were drawn.

    They are those at the middle of the test part of a row, of an item that the user does not have: the
    cluster's probability (the user's mixture of two clusters, or any) times the item's share of the
    popularity of the cluster. No model or reward of an environment reads them, but the reward
    ``refit_env.rewards.gold:Gold``.

    Args:
        dataset: of ``synthesize``.

    Returns:
        (U, I), rows that sum to 1; None for a data set that ``synthesize`` did not generate.

    Example:
        >>> tastes = true_tastes(synthesize(seed=0, num_users=5))
        >>> tastes.shape, tastes.sum(1).round(12).tolist()
        ((5, 400), [1.0, 1.0, 1.0, 1.0, 1.0])
    """
    settings = dataset.meta.get(SETTINGS)
    if settings is None:
        return None
    members, appeal, rows = _draw(settings)
    clusters, moved = settings["num_clusters"], settings["drift"] * TEST_MIDDLE
    within = np.zeros((clusters, appeal.size))  # (C, I) an item's share of its cluster
    for c, items in enumerate(members):
        if items.size:
            within[c, items] = appeal[items] / appeal[items].sum()
    out = np.empty((settings["num_users"], appeal.size))
    for user, (home, _, _) in enumerate(rows):
        mixture = np.full(clusters, (1.0 - settings["focus"]) / clusters)
        mixture[home] += settings["focus"] * (1.0 - moved)
        mixture[(home + 1) % clusters] += settings["focus"] * moved
        out[user] = mixture @ within
    shares: npt.NDArray[np.float64] = out / out.sum(1, keepdims=True)
    return shares


def _draw(
    settings: Mapping[str, Any],
) -> tuple[list[IntArray], IntArray, Iterator[tuple[int, IntArray, FloatArray]]]:
    """Draw the catalogue (as ``_catalogue``), and each user's first cluster, items and times.

    Args:
        settings: the arguments of ``synthesize``.
    """
    rng = np.random.Generator(np.random.PCG64(settings["seed"]))
    members, appeal = _catalogue(rng, settings["num_items"], settings["num_clusters"], settings["popularity"])

    def rows() -> Iterator[tuple[int, IntArray, FloatArray]]:
        for _ in range(settings["num_users"]):
            home, chosen = _row(
                rng, members, appeal, settings["mean_events"], settings["drift"], settings["focus"]
            )
            start = EPOCH + np.floor(rng.random() * 300.0) * DAY
            gaps = np.floor(1.0 + rng.random(chosen.size) * 3.0 * DAY)
            yield home, chosen, start + np.cumsum(gaps)

    return members, appeal, rows()


def _catalogue(
    rng: np.random.Generator, num_items: int, num_clusters: int, popularity: float
) -> tuple[list[IntArray], IntArray]:
    """Draw the items of each cluster, and the popularity of each item (I,)."""
    cluster = (rng.random(num_items) * num_clusters).astype(np.int64)  # (I,)
    members = [np.flatnonzero(cluster == c) for c in range(num_clusters)]
    rank = np.argsort(rng.random(num_items), kind="stable") + 1.0
    return members, np.round(FINE * rank**-popularity).astype(np.int64)


def _row(
    rng: np.random.Generator,
    members: list[IntArray],
    appeal: IntArray,
    mean_events: float,
    drift: float,
    focus: float,
) -> tuple[int, IntArray]:
    """Draw a user's first cluster and the user's distinct items (n_u,), oldest first."""
    num_clusters = len(members)
    home = int(rng.random() * num_clusters)
    goal = (home + 1) % num_clusters
    spread = int((rng.random(12) * FINE).astype(np.int64).sum()) / FINE - 6.0  # close to N(0, 1)
    count = int(np.clip(np.floor(mean_events * np.exp2(0.6 * spread)), 10, appeal.size // 3))
    free = appeal.copy()  # (I,) 0 once drawn
    out = np.empty(count, dtype=np.int64)
    for n in range(count):
        moved = drift * (n / count)
        wanted = int(rng.random() * num_clusters)
        if rng.random() < focus:
            wanted = int(goal if rng.random() < moved else home)
        choice = members[wanted]
        if not free[choice].any():  # no unseen item of the cluster is left
            choice = np.flatnonzero(free)
        heap = np.cumsum(free[choice])
        out[n] = choice[np.searchsorted(heap, int(rng.random() * heap[-1]), side="right")]
        free[out[n]] = 0
    return home, out
