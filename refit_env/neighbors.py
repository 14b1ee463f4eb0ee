"""Exact nearest users by the cosine of their interaction rows, in memory linear in the interactions.

Letters: U users, I items, M neighbours, n candidate pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sparse_dot_topn import sp_matmul_topn

from refit_env.utils.content_cache import Kept

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CHUNK = 512
"""Users whose neighbours are sought at a time; bounds the memory where very many users tie."""

SPARE = 16
"""Candidates sought beyond M, so that most ties at the edge are settled without a second look."""

SLACK = 1e-9
"""Relative difference below which two similarities from floating-point sums may be the same."""


def nearest_users(
    matrix: sp.csr_matrix, k: int = 10, groups: Ids | None = None
) -> tuple[Ids, npt.NDArray[np.float32]]:
    """Find each user's most similar other users.

    Similarity is the cosine of the rows (as in the ReFiT reward, arXiv 2511.06937). Users without a common
    item are no neighbours. Ties go to the lower user id; for rows of whole numbers (sets, counts) they are
    decided exactly, in other matrices similarities that agree to nine digits are ties.

    Args:
        matrix: (U, I) sparse rows, not negative.
        k: M.
        groups: (U,) the group of each user; members of one group (the rows of one session) are no
            neighbours of each other. None: everyone is a group.

    Returns:
        (U, M) int64 user ids, best first, and (U, M) float32 similarities; -1 and 0 where a user has fewer.

    Raises:
        ValueError: if k < 1 or a value is negative.

    Example:
        >>> rows = sp.csr_matrix([[1.0, 1, 0], [1, 1, 1], [0, 0, 1]])
        >>> nearest_users(rows, k=1)[0].tolist()
        [[1], [0], [1]]
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    rows = sp.csr_matrix(matrix, dtype=np.float64)
    if rows.nnz and rows.data.min() < 0:
        raise ValueError("nearest_users takes rows without negative values")
    count = rows.shape[0]
    groups = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(groups)[groups]  # (U,) 1 where everyone is a group
    square = np.asarray(rows.multiply(rows).sum(1)).ravel()  # (U,) squared lengths
    length = np.sqrt(np.maximum(square, 1e-300))
    across = sp.csr_matrix(sp.diags(1.0 / length) @ rows).T.tocsr()  # (I, U), unit columns
    whole = bool((rows.data == np.round(rows.data)).all())
    users = np.full((count, k), -1, dtype=np.int64)
    similarity = np.zeros((count, k), dtype=np.float32)
    depth = min(k + 1 + SPARE, count)
    for start in range(0, count, CHUNK):
        part = slice(start, min(start + CHUNK, count))
        # Rows are left at their own length, which does not change who is nearest.
        found = sp.csr_matrix(sp_matmul_topn(rows[part], across, top_n=depth, sort=True))
        found = _widen(found, rows[part], across, depth, k - 1 + sizes[part])
        row, column, value = _others(found, start, groups)
        dot = value * length[column]  # (n,)
        if whole:
            dot = np.round(dot)
        # Cosine squared, times the row's own square. A quotient of whole numbers is rounded correctly, so
        # equal cosines have equal keys.
        key = dot * dot / square[column]  # (n,)
        key = key if whole else _nine_digits(key)
        if found.nnz > found.shape[0] * depth:  # widened: most candidates are far from the list
            near = _near(row, key, found.shape[0], k)
            row, column, dot, key = row[near], column[near], dot[near], key[near]
        place, order = _places(row, column, key, found.shape[0])
        kept = place < k
        row, column, place, dot = row[order][kept], column[order][kept], place[kept], dot[order][kept]
        users[row + start, place] = column
        similarity[row + start, place] = dot / (length[row + start] * length[column])
    return users, similarity


def _widen(
    found: sp.csr_matrix, rows: sp.csr_matrix, across: sp.csr_matrix, depth: int, edge_place: Ids
) -> sp.csr_matrix:
    """Give rows all their candidates where more than ``SPARE`` tie at the edge of the list.

    ``edge_place`` (n,): where the list's last place is at the latest, the own group's members included.
    """
    counts = np.diff(found.indptr)
    full = np.flatnonzero(counts == depth)  # only here may a candidate have been left out
    edge = found.data[found.indptr[full] + np.minimum(edge_place[full], depth - 1)]
    least = found.data[found.indptr[full] + depth - 1]
    cut = full[(least >= edge * (1 - SLACK)) & (depth < across.shape[1])]
    if not cut.size:
        return found
    keep = np.ones(found.shape[0])
    keep[cut] = 0.0
    again = sp.csr_matrix(sp.diags(1.0 - keep) @ rows) @ across
    out = sp.csr_matrix(sp.diags(keep) @ found + again)
    out.eliminate_zeros()
    return out


def _others(found: sp.csr_matrix, start: int, groups: Ids) -> tuple[Ids, Ids, Floats]:
    """Row, column and value (n,) of every candidate of another group than the user's."""
    row = np.repeat(np.arange(found.shape[0], dtype=np.int64), np.diff(found.indptr))
    column, value = found.indices.astype(np.int64), np.asarray(found.data)
    other = (groups[column] != groups[row + start]) & (value > 0)
    return row[other], column[other], value[other]


def _near(row: Ids, key: Floats, count: int, k: int) -> npt.NDArray[np.bool_]:
    """(n,) whether a candidate is at least as similar as its row's k-th; ``row`` (n,) ascends.

    Sorting all candidates of rows with thousands of them would cost ten times this.
    """
    edge = np.full(count, -np.inf)
    ends = np.searchsorted(row, np.arange(count + 1))
    for r in np.flatnonzero(np.diff(ends) > k):
        part = key[ends[r] : ends[r + 1]]
        edge[r] = np.partition(part, part.size - k)[part.size - k]
    return np.asarray(key >= edge[row])


def _places(row: Ids, column: Ids, key: Floats, count: int) -> tuple[Ids, Ids]:
    """Each candidate's place in its row, in the order that sorts by row, falling key and id."""
    order = np.lexsort((column, -key, row))
    first = np.searchsorted(row[order], np.arange(count))
    return np.arange(row.size) - first[row[order]], order


def _nine_digits(value: Floats) -> Floats:
    """Round to 30 bits, so that sums of other orders are equal."""
    mantissa, exponent = np.frexp(value)
    return np.asarray(np.ldexp(np.round(np.ldexp(mantissa, 30)), exponent - 30))


_KEPT: Kept[Ids] = Kept()


def cached_neighbors(matrix: sp.csr_matrix, k: int, groups: Ids | None = None) -> Ids:
    """``nearest_users(matrix, k, groups)[0]``, kept for the next who asks with the same (the last eight).

    The key is the rows' content, so that environments, agents and evaluations of one process that build
    the same rows independently share the search.
    """
    others = () if groups is None else (groups,)
    return _KEPT.get(matrix, k, lambda: nearest_users(matrix, k, groups)[0], others)


def neighbor_average(neighbors: Ids, matrix: sp.csr_matrix) -> sp.csr_matrix:
    """The mean row of each user's neighbours, over M whether or not a user has so many.

    Args:
        neighbors: (U, M) int64, -1 where there is none.
        matrix: (U, I).

    Returns:
        (U, I) sparse float32.

    Example:
        >>> rows = sp.csr_matrix([[1.0, 0], [1, 1], [0, 1]])
        >>> neighbor_average(np.array([[1, 2], [0, -1], [1, -1]]), rows).toarray().tolist()
        [[0.5, 1.0], [0.5, 0.0], [0.5, 0.5]]
    """
    count, size = neighbors.shape
    there = neighbors >= 0
    rows = np.repeat(np.arange(count), size).reshape(count, size)[there]
    ones = np.ones(rows.size, dtype=np.float32)
    total = sp.csr_matrix(sp.csr_matrix((ones, (rows, neighbors[there])), shape=(count, count)) @ matrix)
    total.data /= np.float32(size)  # divided after the sum: counts are exact, so equal shares are equal
    total.sort_indices()
    return total
