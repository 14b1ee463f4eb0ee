"""The embedded check-in data set: users return to visited places or go to nearby ones.

Like ``refit_env.data.synthetic``, it is generated from a seed by uniform draws, without a file or a network.

Letters: U users, I places, N check-ins of a user.
"""

from __future__ import annotations

import numpy as np

from refit_env.data.dataset import Dataset
from refit_env.data.interactions import Interactions

CITY = (40.7, -74.0)
"""Latitude and longitude of a corner of the area."""

WIDTH = 0.05
"""Side of the area in degrees: about 5 km."""


def synthesize_checkins(
    seed: int = 0,
    num_users: int = 60,
    num_items: int = 60,
    checkins: int = 40,
    again: float = 0.5,
    nearby: int = 5,
) -> Dataset:
    """Generate a check-in data set with coordinates and times.

    Places are distributed uniformly over a small area. The first check-in of a user is at any place. Each
    further one repeats, with probability ``again``, an earlier check-in (all equally likely, so frequent
    places become more frequent); else it is at one of the ``nearby`` places nearest to the last one. Two
    check-ins are 1 to 24 hours apart. The last tenth of a user's check-ins is test, the tenth before it
    validation.

    Args:
        seed: seed of all draws.
        num_users: U.
        num_items: I.
        checkins: N.
        again: share of check-ins that are repeats.
        nearby: number of nearest places that may come next.

    Returns:
        A data set named ``"synthetic-checkins"``, sorted by time.

    Raises:
        ValueError: if users have too few check-ins for three splits, or there are too few places.

    Example:
        >>> data = synthesize_checkins(seed=0)
        >>> data.task, data.num_users, len(data.train) // 60, sorted(data.item_features)
        ('poi', 60, 32, ['lat', 'lon'])
    """
    if checkins < 10:
        raise ValueError(f"checkins={checkins} must be at least 10: a tenth is for test")
    if not 1 <= nearby < num_items:
        raise ValueError(f"nearby={nearby} must lie in 1..{num_items - 1}, the other places")
    rng = np.random.Generator(np.random.PCG64(seed))
    where = np.array(CITY) + WIDTH * rng.random((num_items, 2))  # (I, 2)
    apart = np.square(where[:, None] - where[None]).sum(2)  # (I, I)
    around = np.argsort(apart, axis=1, kind="stable")[:, 1 : nearby + 1]  # (I, nearby)
    walks = np.zeros((num_users, checkins), np.int64)
    walks[:, 0] = (rng.random(num_users) * num_items).astype(np.int64)
    for step in range(1, checkins):
        repeats, which = rng.random((2, num_users))  # (U,) each
        before = walks[np.arange(num_users), (which * step).astype(np.int64)]  # (U,)
        near = around[walks[:, step - 1], (which * nearby).astype(np.int64)]  # (U,)
        walks[:, step] = np.where(repeats < again, before, near)
    times = np.cumsum(3600.0 * (1.0 + 23.0 * rng.random((num_users, checkins))), axis=1)
    held = checkins // 10
    split = np.zeros(checkins, np.int64)
    split[checkins - held :], split[checkins - 2 * held : checkins - held] = 2, 1
    users = np.repeat(np.arange(num_users), checkins)  # (U * N,)
    of = np.tile(split, num_users)  # (U * N,)
    train, valid, test = (
        Interactions.from_pairs(
            users[of == s], walks.reshape(-1)[of == s], num_users, num_items, times.reshape(-1)[of == s]
        )
        for s in range(3)
    )
    places = {"lat": where[:, 0], "lon": where[:, 1]}
    return Dataset("synthetic-checkins", "poi", train, valid, test, time_ordered=True, item_features=places)
