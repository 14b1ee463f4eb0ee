"""Exact nearest users by the cosine of their interaction rows, in memory linear in the users.

Letters: U users, I items, M neighbours.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sparse_dot_topn import sp_matmul_topn

CHUNK = 4096
"""Users whose neighbours are sought at a time."""

TIE_MARGIN = 16
"""Spare neighbours sought, so that ties at the edge can be settled by the lower id."""


def nearest_users(matrix: sp.csr_matrix, k: int = 10) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Find each user's most similar other users.

    Similarity is the cosine of the rows (the ReFiT reward's, arXiv 2511.06937). Users without a common item are no
    neighbours. Ties go to the lower user id; similarities that agree to six digits count as ties. Where more than
    ``TIE_MARGIN`` users tie at the edge of the list, which of them are considered is the library's choice.

    Args:
        matrix: (U, I) sparse rows.
        k: M.

    Returns:
        (U, M) int64 user ids, best first, and (U, M) float32 similarities; -1 and 0 where a user has fewer.

    Raises:
        ValueError: if k < 1.

    Example:
        >>> rows = sp.csr_matrix([[1.0, 1, 0], [1, 1, 1], [0, 0, 1]])
        >>> nearest_users(rows, k=1)[0].tolist()
        [[1], [0], [1]]
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    count = matrix.shape[0]
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
    unit = sp.csr_matrix(sp.diags(1.0 / np.maximum(length, 1e-12)) @ matrix, dtype=np.float64)
    across = sp.csr_matrix(unit.T)
    users = np.full((count, k), -1, dtype=np.int64)
    similarity = np.zeros((count, k), dtype=np.float32)
    for start in range(0, count, CHUNK):
        rows = slice(start, min(start + CHUNK, count))
        found = sp_matmul_topn(unit[rows], across, top_n=min(k + 1 + TIE_MARGIN, count), sort=True)
        _settle(sp.csr_matrix(found), start, k, users[rows], similarity[rows])
    return users, similarity


def _settle(
    found: sp.csr_matrix, start: int, k: int, users: npt.NDArray[np.int64], similarity: npt.NDArray[np.float32]
) -> None:
    """Drop each row's own user, order by similarity and then id, and keep k."""
    row = np.repeat(np.arange(found.shape[0]), np.diff(found.indptr))
    column, value = found.indices.astype(np.int64), np.asarray(found.data)
    other = (column != row + start) & (value > 0)
    row, column, value = row[other], column[other], value[other]
    order = np.lexsort((column, -np.round(value, 6), row))
    row, column, value = row[order], column[order], value[order]
    first = np.searchsorted(row, np.arange(found.shape[0]))
    place = np.arange(row.size) - first[row]
    kept = place < k
    users[row[kept], place[kept]] = column[kept]
    similarity[row[kept], place[kept]] = value[kept]


def neighbor_average(neighbors: npt.NDArray[np.int64], matrix: sp.csr_matrix) -> sp.csr_matrix:
    """The mean row of each user's neighbours, over M whether or not a user has so many.

    Args:
        neighbors: (U, M) int64, -1 where there is none.
        matrix: (U, I).

    Returns:
        (U, I) sparse float32.
    """
    count, size = neighbors.shape
    there = neighbors >= 0
    rows = np.repeat(np.arange(count), size).reshape(count, size)[there]
    share = np.full(rows.size, 1.0 / size, dtype=np.float32)
    out = sp.csr_matrix(sp.csr_matrix((share, (rows, neighbors[there])), shape=(count, count)) @ matrix)
    out.sort_indices()
    return out
