"""Negative items are drawn uniformly from the items that a user does not have."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from refit_env.backbones.negatives import Negatives
from refit_env.errors import DataError


@given(st.lists(st.sets(st.integers(0, 8), max_size=8), min_size=1, max_size=5), st.integers(0, 99))
def test_only_free_items_are_drawn_and_each_can_be(rows: list[set[int]], seed: int) -> None:
    matrix = np.zeros((len(rows), 9), np.float32)
    for user, items in enumerate(rows):
        matrix[user, sorted(items)] = 1
    users = torch.arange(len(rows)).repeat(400)
    drawn = Negatives(sp.csr_matrix(matrix)).draw(users, torch.Generator().manual_seed(seed))
    for user, items in enumerate(rows):
        free = sorted(set(range(9)) - items)
        counts = torch.bincount(drawn[users == user], minlength=9).numpy()
        assert sorted(np.flatnonzero(counts)) == free or (
            len(free) > 6 and set(np.flatnonzero(counts)) <= set(free)
        )


def test_draws_are_uniform() -> None:
    matrix = sp.csr_matrix(np.array([[0, 1, 0, 0, 1, 1, 0]], np.float32))
    drawn = Negatives(matrix).draw(torch.zeros(40_000, dtype=torch.int64), torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=7)
    assert counts[[1, 4, 5]].sum() == 0
    assert torch.allclose(counts[[0, 2, 3, 6]] / 40_000, torch.full((4,), 0.25), atol=0.01)


def test_a_user_with_everything_is_refused() -> None:
    with pytest.raises(DataError, match="user number 1 has all 2 items"):
        Negatives(sp.csr_matrix(np.array([[1, 0], [1, 1]])))
