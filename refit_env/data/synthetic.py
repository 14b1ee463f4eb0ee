"""The embedded data set: tastes in clusters that drift, Zipf popularity, log-normal activity.

It is made from a seed by PCG64's uniform draws alone. Powers, which libraries round differently, become whole
numbers at once, and every sum and choice is of whole numbers; so a seed gives the same data on every
platform, with no file and no network.

Letters: U users, I items, C clusters, n_u events of a user.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from refit_env.data.dataset import Dataset, Interactions
from refit_env.data.splits import by_time

IntArray = npt.NDArray[np.int64]

FINE = 2.0**30
"""Steps into which weights and draws are cut before they are added up."""
DAY = 86_400.0
EPOCH = 1_600_000_000.0
"""Seconds of the first possible event (September 2020)."""


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
    """Make a data set.

    Every item belongs to a cluster and has a Zipf popularity within the catalogue. A user has a home
    cluster and moves, over the user's own time, towards the next one; each event draws a cluster (the
    mixture of the moment with probability ``focus``, any cluster else), then an unseen item of it by
    popularity. Rows are split by time within each user, 7:1:2. All who start in a cluster move to the
    same one, so what came late in some histories tells what comes next in others; a model that learns to
    reconstruct whole rows, without regard to time, does not see it.

    Args:
        seed: of everything.
        num_users: U.
        num_items: I.
        num_clusters: C.
        mean_events: median of the log-normal activity; rows have 10 to I / 3 events.
        drift: how much of the taste has moved to the next cluster at the end of the row, 0..1.
        popularity: exponent of the Zipf law.
        focus: share of events that follow the taste.

    Returns:
        A data set named ``"synthetic"`` with timestamps, in order of time.

    Raises:
        ValueError: if there are fewer than 3 items a cluster.

    Example:
        >>> data = synthesize(seed=0)
        >>> data.num_users, data.num_items, data.time_ordered
        (800, 400, True)
    """
    if num_items < 3 * num_clusters:
        raise ValueError(f"num_items={num_items} must be at least 3 for each of the {num_clusters} clusters")
    rng = np.random.Generator(np.random.PCG64(seed))
    cluster = (rng.random(num_items) * num_clusters).astype(np.int64)  # (I,)
    members = [np.flatnonzero(cluster == c) for c in range(num_clusters)]
    rank = np.argsort(rng.random(num_items), kind="stable") + 1.0
    appeal = np.round(FINE * rank**-popularity).astype(np.int64)  # (I,)
    users, items, times = [], [], []
    for user in range(num_users):
        chosen = _row(rng, members, appeal, mean_events, drift, focus)
        start = EPOCH + np.floor(rng.random() * 300.0) * DAY
        gaps = np.floor(1.0 + rng.random(chosen.size) * 3.0 * DAY)
        users.append(np.full(chosen.size, user, dtype=np.int64))
        items.append(chosen)
        times.append(start + np.cumsum(gaps))
    everything = Interactions.from_pairs(
        np.concatenate(users), np.concatenate(items), num_users, num_items, np.concatenate(times)
    )
    train, valid, test = by_time(everything, valid_share=0.1, test_share=0.2)
    meta = {
        "source": [f"refit_env.data.synthesize(seed={seed})"],
        "licence": "MIT",
        "split": "by time, 7:1:2 per user",
    }
    return Dataset("synthetic", "cf", train, valid, test, time_ordered=True, meta=meta)


def _row(
    rng: np.random.Generator,
    members: list[IntArray],
    appeal: IntArray,
    mean_events: float,
    drift: float,
    focus: float,
) -> IntArray:
    """(n_u,) distinct items of one user, oldest first."""
    num_clusters = len(members)
    home = int(rng.random() * num_clusters)
    goal = (home + 1) % num_clusters
    spread = int((rng.random(12) * FINE).astype(np.int64).sum()) / FINE - 6.0  # close to N(0, 1)
    count = int(np.clip(np.floor(mean_events * np.exp2(0.6 * spread)), 10, appeal.size // 3))
    free = appeal.copy()  # (I,) 0 once taken
    out = np.empty(count, dtype=np.int64)
    for n in range(count):
        moved = drift * (n / count)
        wanted = int(rng.random() * num_clusters)
        if rng.random() < focus:
            wanted = int(goal if rng.random() < moved else home)
        choice = members[wanted]
        if not free[choice].any():  # the cluster is used up
            choice = np.flatnonzero(free)
        heap = np.cumsum(free[choice])
        out[n] = choice[np.searchsorted(heap, int(rng.random() * heap[-1]), side="right")]
        free[out[n]] = 0
    return out
