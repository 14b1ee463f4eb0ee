"""Embedded check-ins: people who go back to their places and to what is near.

As ``refit_env.data.synthetic``: from a seed by uniform draws alone, with no file and no network.

Letters: U users, I places, N check-ins of a user.
"""

from __future__ import annotations

import numpy as np

from refit_env.data.dataset import Dataset, Interactions

CITY = (40.7, -74.0)
"""Latitude and longitude of the corner of the town."""

WIDTH = 0.05
"""Side of the town in degrees: about 5 km."""


def synthesize_checkins(
    seed: int = 0,
    num_users: int = 60,
    num_items: int = 60,
    checkins: int = 40,
    again: float = 0.5,
    nearby: int = 5,
) -> Dataset:
    """Make a check-in data set with coordinates and times.

    Places lie anywhere in a small town. A person begins anywhere; each further check-in is, with probability
    ``again``, where the person has been before (any earlier check-in alike, so that habits form), else at
    one of the ``nearby`` nearest places of the last one. Between two check-ins 1 to 24 hours pass. The last
    tenth of a person's check-ins is for test, the tenth before it for validation.

    Args:
        seed: of everything.
        num_users: U.
        num_items: I.
        checkins: N.
        again: share of check-ins that are repeats.
        nearby: places around the last one that may be next.

    Returns:
        A data set named ``"synthetic-checkins"``, in order of time.

    Raises:
        ValueError: if people could not have a check-in for each split, or there are too few places.

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
