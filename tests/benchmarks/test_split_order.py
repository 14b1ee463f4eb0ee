"""The order of splits is found where it is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.split_order import lifts
from refit_env.data import Dataset, Interactions


@pytest.fixture(scope="module")
def walks() -> Dataset:
    """Rows that walk along a circle of 50 items, 20 steps train, then 4 test, then 8 validation."""
    starts = np.random.default_rng(0).integers(50, size=200)
    walk = (starts[:, None] + np.arange(32)) % 50  # (U, 32)

    def part(begin: int, end: int) -> Interactions:
        users = np.repeat(np.arange(200), end - begin)
        return Interactions.from_pairs(users, walk[:, begin:end].ravel(), num_users=200, num_items=50)

    return Dataset("walks", "cf", part(0, 20), part(24, 32), part(20, 24), time_ordered=True)


def test_neighbouring_splits_have_the_largest_lift(walks: Dataset) -> None:
    found = lifts(walks)
    assert found["train", "test"] > 30 and found["test", "valid"] > 30
    assert found["train", "valid"] == found["valid", "test"] == 0.0


def test_rows_without_order_are_refused(walks: Dataset) -> None:
    with pytest.raises(ValueError, match="not sorted by time"):
        lifts(replace(walks, time_ordered=False))
