"""Means of neighbours' rows, a batch at a time, are the rows of the matrix of all users' means."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from refit_env.neighbors import neighbor_average
from refit_env.rewards.neighbor_rows import NeighborRows


def test_a_batch_has_the_rows_of_the_whole_matrix() -> None:
    rng = np.random.default_rng(0)
    matrix = sp.csr_matrix((rng.random((12, 9)) < 0.3).astype(np.float32))
    neighbors = rng.integers(-1, 12, size=(12, 4))
    neighbors[5] = -1  # a user without neighbours
    whole = torch.from_numpy(neighbor_average(neighbors, matrix).toarray())
    rows, users = NeighborRows(neighbors, matrix), torch.tensor([5, 0, 11, 0])
    assert torch.equal(rows.dense(users), whole[users])
    columns = torch.from_numpy(rng.integers(0, 9, size=(4, 3)))
    assert torch.equal(rows.at(users, columns), whole[users].gather(1, columns))
    assert not bool(rows.dense(users)[0].any()) and bool(rows.dense(users)[1].any())
