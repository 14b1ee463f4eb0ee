"""The embedded social data set: synthetic interactions, and friends with similar preferences.

Like ``refit_env.data.synthetic``, it is generated from a seed by uniform draws, without a file or a network.

Letters: U users, M people that a user meets, F friends that a user chooses, S ties.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from refit_env.data.dataset import Dataset
from refit_env.data.synthetic import synthesize


def synthesize_social(
    seed: int = 0,
    num_users: int = 300,
    num_items: int = 120,
    friends: int = 4,
    meets: int = 40,
    mean_events: float = 20.0,
) -> Dataset:
    """Generate a social data set.

    Each user draws M other users at random and becomes friends with the F of them who share the most train
    items (the lower id in a tie); friendship is symmetric. A user's friends therefore carry information about
    preferences that the user's own few items may not show.

    Args:
        seed: of everything.
        num_users: U.
        num_items: number of items, at least 24.
        friends: F.
        meets: M, at least F.
        mean_events: median activity of the users.

    Returns:
        A data set named ``"synthetic-social"``; a user can have more than F ties, because others choose, too.

    Raises:
        ValueError: unless 1 <= F <= M < U.

    Example:
        >>> data = synthesize_social(seed=0)
        >>> data.task, data.num_users, len(data.social) >= 2 * 300
        ('social', 300, True)
    """
    if not 1 <= friends <= meets < num_users:
        raise ValueError(
            f"friends={friends}, meets={meets}: must satisfy 1 <= friends <= meets < {num_users} users"
        )
    data = synthesize(seed, num_users, num_items, mean_events=mean_events)
    rng = np.random.Generator(np.random.PCG64(seed + 1))
    shared = (data.train.csr @ data.train.csr.T).toarray().astype(np.int64)  # (U, U)
    pairs = []
    for user in range(num_users):
        met = (user + 1 + (rng.random(meets) * (num_users - 1)).astype(np.int64)) % num_users  # not the user
        met = np.unique(met)
        chosen = met[np.argsort(-shared[user, met], kind="stable")[:friends]]
        pairs += [(user, int(friend)) for friend in chosen] + [(int(friend), user) for friend in chosen]
    social = np.unique(np.array(pairs, dtype=np.int32), axis=0)  # (S, 2)
    return replace(data, name="synthetic-social", task="social", social=social)
