"""Sparse matrices of the baselines: inputs, and products that keep the largest values of each row.

Letters: U users, I items, N rows of a matrix, M columns, k values that are kept, S sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from refit_env.backbones.cooccurrence import item_sets
from refit_env.data.dataset import Dataset, RowDataset
from refit_env.evaluation.ranking import ScoreFunction
from refit_env.rewards.linear_models import weighted
from refit_env.utils.sparse_rows import largest_of_rows

CELLS = 40_000_000
"""Approximate number of stored values of a sparse product in memory at a time."""


def shown_rows(data: Dataset) -> sp.csr_matrix:
    """Return the input of each user: the train items (U, I) as ones.

    For a data set of rows, this is each history, with weight 1 / b of the item b places back.
    """
    if isinstance(data, RowDataset):
        return weighted(data)
    return sp.csr_matrix(data.train.csr, dtype=np.float64, copy=True)


def known_sets(data: Dataset) -> sp.csr_matrix:
    """Return the sets of items that a neighbourhood model is fitted to: the train items (U, I) as ones.

    For a data set of rows, these are the items of each session (S, I) in its train rows, with targets.
    """
    return sp.csr_matrix(item_sets(data), dtype=np.float64, copy=True)


def nearest_columns(
    left: sp.csr_matrix,
    right: sp.csr_matrix,
    k: int,
    adjust: Callable[[sp.csr_matrix, slice], sp.csr_matrix] = lambda part, rows: part,
    without_itself: bool = True,
) -> sp.csr_matrix:
    """Return the product of two sparse matrices with the k largest values of each row.

    Args:
        left: (N, D).
        right: (D, M).
        k: number of values to keep in a row.
        adjust: function of some rows of the product and their slice, applied before the largest are chosen.
        without_itself: whether to remove the diagonal.

    Returns:
        (N, M) sparse.
    """
    parts = []
    for rows in _slices(left, right):
        part = sp.csr_matrix(left[rows] @ right)
        if without_itself:
            part = _without_diagonal(part, rows.start)
        parts.append(largest_of_rows(adjust(part, rows), k))
    return sp.csr_matrix(sp.vstack(parts))


def product_scores(
    rows: sp.csr_matrix, weights: sp.csr_matrix, factor: npt.NDArray[np.float64] | None = None
) -> ScoreFunction:
    """Return the function that scores users by their row times a sparse matrix of weights.

    Args:
        rows: (U, I) inputs.
        weights: (I, I).
        factor: (I,) that multiplies the scores of an item; None for ones.
    """
    scaled = weights if factor is None else sp.csr_matrix(weights @ sp.diags(factor))

    def score(users: Tensor) -> Tensor:
        """Return the rows of ``users`` (B,) times the weights, (B, I) float32."""
        return dense_tensor(sp.csr_matrix(rows[users.cpu().numpy()] @ scaled), users.device)

    return score


def dense_tensor(matrix: sp.csr_matrix, device: torch.device) -> Tensor:
    """Return the matrix (B, I) as a float32 tensor."""
    return torch.from_numpy(matrix.astype(np.float32).toarray()).to(device)


def _slices(left: sp.csr_matrix, right: sp.csr_matrix) -> Iterator[slice]:
    """Yield slices of the rows of ``left`` whose products hold at most ``CELLS`` values, if one row does."""
    reach = np.diff(right.indptr).astype(np.float64)  # values that a stored column of left adds
    ones = sp.csr_matrix((np.ones(left.nnz), left.indices, left.indptr), shape=left.shape)
    work = np.asarray(ones @ reach).ravel()  # (N,) upper bound of the values of the product's row
    first, held = 0, 0.0
    for row, cost in enumerate(np.minimum(work, right.shape[1])):
        if held and held + cost > CELLS:
            yield slice(first, row)
            first, held = row, 0.0
        held += cost
    yield slice(first, left.shape[0])


def _without_diagonal(part: sp.csr_matrix, first: int) -> sp.csr_matrix:
    """Return rows of a square matrix, from row ``first`` on, without their diagonal."""
    row = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
    keep = part.indices != row + first
    counts = np.bincount(row[keep], minlength=part.shape[0])
    indptr = np.append(0, np.cumsum(counts))
    return sp.csr_matrix((part.data[keep], part.indices[keep], indptr), shape=part.shape)
