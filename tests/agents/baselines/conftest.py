"""Small settings of every baseline, and a data set to check matrices by hand on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agents.baselines import baseline, names
from refit_env.data import Dataset, Interactions

SMALL: dict[str, dict[str, Any]] = {
    "ease": {"l2": 5.0},
    "gf-cf": {"rank": 4},
    "ials": {"embedding": 4, "epochs": 2},
    "item-knn": {"neighbors": 5},
    "popularity": {},
    "rp3beta": {"neighbors": 5},
    "slim": {"iterations": 5},
    "user-knn": {"neighbors": 5},
}
"""Settings with which a fit takes a moment."""


@pytest.fixture(scope="session")
def small_settings() -> dict[str, dict[str, Any]]:
    """Baseline -> settings; every registered one is there."""
    assert set(SMALL) == set(names())
    return SMALL


@pytest.fixture
def table() -> np.ndarray:
    """(5, 6) train items of five users."""
    return np.array(
        [[1, 1, 0, 0, 0, 1], [1, 1, 1, 0, 0, 0], [0, 1, 1, 0, 1, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 0, 1]],
        dtype=np.float64,
    )


@pytest.fixture
def few(table: np.ndarray) -> Dataset:
    """The data set of ``table``, whose users each have one validation and one test item."""
    users, items = np.nonzero(table)
    train = Interactions.from_pairs(users, items, 5, 6)
    free = [np.flatnonzero(row == 0) for row in table]
    valid = Interactions.from_pairs(range(5), [own[-1] for own in free], 5, 6)
    test = Interactions.from_pairs(range(5), [own[0] for own in free], 5, 6)
    return Dataset("few", "cf", train, valid, test, time_ordered=False)


def scores_of(name: str, dataset: Dataset, seed: int = 0, **settings: Any) -> np.ndarray:
    """(U, I) scores of all users of a baseline fitted to a data set."""
    import torch

    kind = baseline(name)
    scorer = kind(kind.config_class(**settings)).fit(dataset, seed)
    return scorer(torch.arange(dataset.episodes.num_users)).double().numpy()
