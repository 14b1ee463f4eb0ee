"""Small settings of every baseline, and a data set to check matrices by hand on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agents.baselines import baseline, names
from refit_env.data import Dataset, Interactions

QUICK: dict[str, Any] = {"epochs": 2, "batch": 64, "eval_every": 1, "learning_rate": 0.01}
EMBEDDED = QUICK | {"embedding": 4}
SEQUENCE = EMBEDDED | {"batch": 16, "history": 5}
ROWS = QUICK | {"latent": 3, "batch": 16}
SMALL: dict[str, dict[str, Any]] = {
    "bspm": {"rank": 4},
    "cfgan": QUICK | {"hidden": 16, "critic": 8, "batch": 8, "l2": 0.0, "zero_weight": 0.1},
    "diffnet": EMBEDDED,
    "ease": {"l2": 5.0},
    "fcpo": EMBEDDED | {"sessions": 16, "horizon": 3, "hidden": 4, "batch": 16},
    "fpmc": EMBEDDED,
    "gf-cf": {"rank": 4},
    "gru4rec": SEQUENCE,
    "ials": {"embedding": 4, "epochs": 2},
    "item-knn": {"neighbors": 5},
    "lightgcn": EMBEDDED,
    "markov": {"reach": 3},
    "mf-bpr": EMBEDDED,
    "mhcn": EMBEDDED,
    "most-visited": {},
    "mult-dae": ROWS,
    "mult-vae": ROWS | {"hidden": (6,)},
    "nearest": {},
    "ngcf": EMBEDDED,
    "nicf": EMBEDDED | {"history": 5, "horizon": 3, "blocks": 1, "sessions": 16, "updates": 4, "batch": 16},
    "popularity": {},
    "recvae": ROWS | {"hidden": (6,), "depth": 2},
    "rp3beta": {"neighbors": 5},
    "sasrec": SEQUENCE,
    "sgl": EMBEDDED,
    "simplex": EMBEDDED | {"negatives": 5},
    "slim": {"iterations": 5},
    "user-knn": {"neighbors": 5},
    "xsimgcl": EMBEDDED,
}
"""Settings for a fast fit."""


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
