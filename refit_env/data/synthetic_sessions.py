"""The embedded sequential data set: sessions that are random walks over the items.

Like ``refit_env.data.synthetic``, it is generated from a seed by uniform draws, without a file or a network.

Letters: U sessions, I items, N events.
"""

from __future__ import annotations

import numpy as np

from refit_env.data.dataset import Dataset
from refit_env.data.interactions import Interactions

FOLLOWERS = 3
"""Number of likely successors of each item."""


def synthesize_sessions(
    seed: int = 0,
    num_sessions: int = 600,
    num_items: int = 60,
    max_events: int = 8,
    focus: float = 0.8,
) -> Dataset:
    """Generate a sequential data set.

    A session begins at any item and has 3 to ``max_events`` events. Each event is, with probability
    ``focus``, one of the three followers of the previous item, the first of them as likely as the other two
    together; else it is any item. One tenth of the sessions is validation, another tenth test.

    Args:
        seed: seed of all draws.
        num_sessions: U.
        num_items: I.
        max_events: longest session.
        focus: share of events that are followers of the previous item.

    Returns:
        A data set named ``"synthetic-sessions"``, sorted by time.

    Raises:
        ValueError: if sessions cannot have three events, or there are too few for three splits.

    Example:
        >>> data = synthesize_sessions(seed=0)
        >>> data.task, data.num_users, data.episodes.num_users == len(data.train.items) + len(
        ...     data.valid.items) + len(data.test.items) - 600
        ('sequential', 600, True)
    """
    if max_events < 3 or num_sessions < 20:
        raise ValueError(
            f"max_events={max_events} must be at least 3 and num_sessions={num_sessions} at least 20"
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    followers = (rng.random((num_items, FOLLOWERS)) * num_items).astype(np.int64)  # (I, 3)
    lengths = 3 + (rng.random(num_sessions) * (max_events - 2)).astype(np.int64)  # (U,)
    walks = np.zeros((num_sessions, max_events), dtype=np.int64)
    walks[:, 0] = (rng.random(num_sessions) * num_items).astype(np.int64)
    for step in range(1, max_events):
        follows, which, anywhere = rng.random((3, num_sessions))  # (U,) each
        # Halves, then quarters: 0 with probability 1/2, 1 and 2 with 1/4 each.
        place = np.where(which < 0.5, 0, np.where(which < 0.75, 1, 2))
        walks[:, step] = np.where(
            follows < focus, followers[walks[:, step - 1], place], (anywhere * num_items).astype(np.int64)
        )
    users = np.repeat(np.arange(num_sessions), lengths)  # (N,)
    items = walks[np.arange(max_events) < lengths[:, None]]  # (N,)
    split = np.where(users % 10 == 8, 1, np.where(users % 10 == 9, 2, 0))  # (N,)
    train, valid, test = (
        Interactions.from_pairs(users[split == s], items[split == s], num_sessions, num_items)
        for s in range(3)
    )
    return Dataset("synthetic-sessions", "sequential", train, valid, test, time_ordered=True)
