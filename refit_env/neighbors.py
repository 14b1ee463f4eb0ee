"""Nearest users by the cosine of their interaction rows, in memory linear in the interactions.

The exact search needs a time that is quadratic in the users. The approximate one finds candidates with an
HNSW graph (faiss, the extra ``neighbors``) on 64 factors of the rows and ranks these exactly: nearly linear.

Letters: U users, I items, M neighbours, n candidate pairs, F factors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sparse_dot_topn import sp_matmul_topn

from refit_env.errors import MissingExtraError
from refit_env.item_factors import item_factors
from refit_env.utils.content_cache import CACHE

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FACTORS, CANDIDATES, SAMPLE = 64, 64, 20_000
"""Of the approximate search: factors of a row, candidates of a user, users that the factors are made of."""

CHUNK = 512
"""Users in a chunk of the search; bounds the memory where very many users tie."""

SPARE = 16
"""Candidates searched beyond M, so that most ties with the M-th neighbour need no second search."""

SLACK = 1e-9
"""Relative difference below which two similarities may be equal, despite rounding."""


def nearest_users(
    matrix: sp.csr_matrix, k: int = 10, groups: Ids | None = None
) -> tuple[Ids, npt.NDArray[np.float32]]:
    """Find each user's most similar other users.

    Similarity is the cosine of the rows (as in the ReFiT reward, arXiv 2511.06937). Users without a common
    item are not neighbours. Ties go to the lower user id. For rows of whole numbers (sets, counts) ties are
    exact; in other matrices similarities that agree to nine digits tie.

    Args:
        matrix: (U, I) sparse rows, not negative.
        k: M.
        groups: (U,) the group of each user; members of one group (the rows of one session) are not
            neighbours of each other. None: each user is a group.

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
        raise ValueError("nearest_users needs rows without negative values")
    count = rows.shape[0]
    groups = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(groups)[groups]  # (U,) 1 where each user is a group
    square = np.asarray(rows.multiply(rows).sum(1)).ravel()  # (U,) squared lengths
    length = np.sqrt(np.maximum(square, 1e-300))
    across = sp.csr_matrix(sp.diags(1.0 / length) @ rows).T.tocsr()  # (I, U), unit columns
    whole = bool((rows.data == np.round(rows.data)).all())
    users = np.full((count, k), -1, dtype=np.int64)
    similarity = np.zeros((count, k), dtype=np.float32)
    depth = min(k + 1 + SPARE, count)
    for start in range(0, count, CHUNK):
        part = slice(start, min(start + CHUNK, count))
        # The rows are not normalised: this does not change the order of their neighbours.
        found = sp.csr_matrix(sp_matmul_topn(rows[part], across, top_n=depth, sort=True))
        found = _widen(found, rows[part], across, depth, k - 1 + sizes[part])
        row, column, value = _others(found, start, groups)
        dot = value * length[column]  # (n,)
        if whole:
            dot = np.round(dot)
        # Squared cosine times the squared length of the row. A quotient of whole numbers is rounded
        # correctly, so equal cosines have equal keys.
        key = dot * dot / square[column]  # (n,)
        key = key if whole else _nine_digits(key)
        if found.nnz > found.shape[0] * depth:  # after _widen most candidates rank far below the M-th
            near = _near(row, key, found.shape[0], k)
            row, column, dot, key = row[near], column[near], dot[near], key[near]
        place, order = _places(row, column, key, found.shape[0])
        kept = place < k
        row, column, place, dot = row[order][kept], column[order][kept], place[kept], dot[order][kept]
        users[row + start, place] = column
        similarity[row + start, place] = dot / (length[row + start] * length[column])
    return users, similarity


def nearest_vectors(vectors: npt.NDArray[np.float32], k: int, groups: Ids | None = None) -> Ids:
    """Find each user's most similar other users by the cosine of dense vectors.

    Args:
        vectors: (U, D); users whose vector is 0 have no neighbours and are none.
        k: M.
        groups: (U,) as in ``nearest_users``.

    Returns:
        (U, M) int64 user ids, best first, ties to the lower id; -1 where a user has fewer with a positive
        cosine.

    Example:
        >>> nearest_vectors(np.array([[1.0, 0.0], [2.0, 0.1], [0.0, 3.0]], dtype=np.float32), k=1).tolist()
        [[1], [0], [1]]
    """
    count = vectors.shape[0]
    groups = np.arange(count) if groups is None else np.asarray(groups)
    length = np.sqrt(np.square(vectors.astype(np.float64)).sum(1, keepdims=True))
    unit = (vectors / np.where(length > 0, length, 1.0)).astype(np.float32)  # (U, D)
    out = np.full((count, k), -1, dtype=np.int64)
    for start in range(0, count, CHUNK):
        part = slice(start, min(start + CHUNK, count))
        cosine = unit[part] @ unit.T  # (n, U)
        cosine[groups[part][:, None] == groups[None, :]] = -1.0
        size = min(k, count)
        edge = np.partition(cosine, count - size, axis=1)[:, count - size]  # (n,) the k-th largest
        row, column = np.nonzero((cosine >= edge[:, None]) & (cosine > 1e-6))
        order = np.lexsort((column, -cosine[row, column], row))
        row, column = row[order], column[order]
        place = np.arange(row.size) - np.searchsorted(row, np.arange(cosine.shape[0]))[row]
        kept = place < k
        out[row[kept] + start, place[kept]] = column[kept]
    return out


def _widen(
    found: sp.csr_matrix, rows: sp.csr_matrix, across: sp.csr_matrix, depth: int, edge_place: Ids
) -> sp.csr_matrix:
    """Return all candidates of the rows in which more than ``SPARE`` tie with the M-th neighbour.

    ``edge_place`` (n,): largest possible rank of the M-th neighbour, members of the user's group included.
    """
    counts = np.diff(found.indptr)
    full = np.flatnonzero(counts == depth)  # only these rows may have further candidates
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
    """Return row, column and value (n,) of every candidate from another group than the user's."""
    row = np.repeat(np.arange(found.shape[0], dtype=np.int64), np.diff(found.indptr))
    column, value = found.indices.astype(np.int64), np.asarray(found.data)
    other = (groups[column] != groups[row + start]) & (value > 0)
    return row[other], column[other], value[other]


def _near(row: Ids, key: Floats, count: int, k: int) -> npt.NDArray[np.bool_]:
    """Return (n,) whether a candidate is at least as similar as its row's k-th; ``row`` (n,) ascends.

    Sorting all candidates would be ten times slower in rows with thousands of them.
    """
    edge = np.full(count, -np.inf)
    ends = np.searchsorted(row, np.arange(count + 1))
    for r in np.flatnonzero(np.diff(ends) > k):
        part = key[ends[r] : ends[r + 1]]
        edge[r] = np.partition(part, part.size - k)[part.size - k]
    return np.asarray(key >= edge[row])


def _places(row: Ids, column: Ids, key: Floats, count: int) -> tuple[Ids, Ids]:
    """Return each candidate's rank in its row, and the order that sorts by row, descending key and id."""
    order = np.lexsort((column, -key, row))
    first = np.searchsorted(row[order], np.arange(count))
    return np.arange(row.size) - first[row[order]], order


def _nine_digits(value: Floats) -> Floats:
    """Round to 30 bits, so that equal sums in different orders are equal."""
    mantissa, exponent = np.frexp(value)
    return np.asarray(np.ldexp(np.round(np.ldexp(mantissa, 30)), exponent - 30))


def approximate_users(
    matrix: sp.csr_matrix, k: int = 10, groups: Ids | None = None, candidates: int = CANDIDATES
) -> tuple[Ids, npt.NDArray[np.float32]]:
    """Find each user's most similar other users among the candidates of an index.

    Arguments and results are those of ``nearest_users``; some of the nearest users may be missed.

    Args:
        matrix: (U, I) sparse rows, not negative.
        k: M.
        groups: (U,) the group of each user, or None.
        candidates: users that the index returns for each user.

    Raises:
        MissingExtraError: if faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("the approximate search of neighbours", "faiss", "neighbors") from error
    rows = sp.csr_matrix(matrix, dtype=np.float64)
    count = rows.shape[0]
    groups = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    length = np.sqrt(np.maximum(np.asarray(rows.multiply(rows).sum(1)).ravel(), 1e-300))
    unit = sp.csr_matrix(sp.diags(1.0 / length) @ rows)
    places = _factors_of(unit)  # (U, F)
    index = faiss.IndexHNSWFlat(places.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = 2 * candidates
    index.add(places)
    users = np.full((count, k), -1, dtype=np.int64)
    similarity = np.zeros((count, k), dtype=np.float32)
    for start in range(0, count, CHUNK):
        part = np.arange(start, min(start + CHUNK, count))
        found = index.search(places[part], min(candidates, count))[1]  # (n, candidates)
        row, column = np.repeat(part, found.shape[1]), found.ravel()
        other = (column >= 0) & (groups[column] != groups[row])
        row, column = row[other], column[other].astype(np.int64)
        cosine = np.asarray(unit[row].multiply(unit[column]).sum(1)).ravel()  # (n,)
        row, column, cosine = row[cosine > 0], column[cosine > 0], cosine[cosine > 0]
        place, order = _places(row - start, column, _nine_digits(cosine), part.size)
        kept = place < k
        users[row[order][kept], place[kept]] = column[order][kept]
        similarity[row[order][kept], place[kept]] = cosine[order][kept]
    return users, similarity


def _factors_of(unit: sp.csr_matrix) -> npt.NDArray[np.float32]:
    """Return factors (U, F) of unit length of the rows, in directions that a sample of the rows has."""
    sample = unit
    if unit.shape[0] > SAMPLE:
        sample = unit[np.sort(np.random.default_rng(0).choice(unit.shape[0], SAMPLE, replace=False))]
    rank = min(FACTORS, min(sample.shape) - 1)
    places = unit @ item_factors(sp.csr_matrix(sample), rank).astype(np.float64)  # (U, F)
    size = np.linalg.norm(places, axis=1, keepdims=True)
    return np.ascontiguousarray(places / np.maximum(size, 1e-12), dtype=np.float32)


def cached_neighbors(matrix: sp.csr_matrix, k: int, groups: Ids | None = None, search: str = "exact") -> Ids:
    """Return ``nearest_users(matrix, k, groups)[0]``, or of ``approximate_users``; results are cached.

    The key is the content of the rows, so environments, agents and evaluations of one process that build
    equal rows independently share the result.
    """
    find = nearest_users if search == "exact" else approximate_users
    return CACHE.get(f"neighbors, {search}", (matrix, k, groups), lambda: find(matrix, k, groups)[0])


def neighbor_average(neighbors: Ids, matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Return the sum of each user's neighbours' rows, divided by M also where a user has fewer.

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
    total.data /= np.float32(size)  # divided after the exact sum of counts, so equal shares stay equal
    total.sort_indices()
    return total
