"""Item factors: the leading right singular vectors of a data set's interactions (truncated SVD).

Letters: U users, I items, r rank.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from refit_env.utils.content_cache import CACHE

Floats = npt.NDArray[np.float32]

DENSE_CELLS = 1_000_000
"""Up to this many cells (U * I) the full decomposition is used: as fast as Lanczos, and exact at any rank."""


def item_factors(matrix: sp.csr_matrix, rank: int) -> Floats:
    """Return the r leading right singular vectors of the interactions; results are cached.

    Columns are orthonormal and sorted by descending singular value; in each, the first of the entries with
    the largest absolute value is positive. Lanczos starts with a fixed vector, so every process computes the
    same factors. Vectors of equal singular values are not unique; for a rank above the matrix's rank, further
    columns are orthonormal vectors with singular value 0.

    Args:
        matrix: (U, I) interactions, the train rows.
        rank: r, in 1..min(U, I) - 1.

    Returns:
        (I, r) float32, read-only.

    Raises:
        ValueError: if the rank is not a whole number in that range.

    Example:
        >>> rows = sp.csr_matrix([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
        >>> item_factors(rows, rank=2).round(2)
        array([[0.71, 0.  ],
               [0.71, 0.  ],
               [0.  , 1.  ]], dtype=float32)
    """
    highest, wanted = min(matrix.shape) - 1, cast("Any", rank)
    if isinstance(wanted, bool) or not isinstance(wanted, int | np.integer) or not 1 <= wanted <= highest:
        raise ValueError(
            f"rank={rank!r} must be a whole number in 1..{highest}: there are {matrix.shape[0]} users and "
            f"{matrix.shape[1]} items, and a truncated SVD has fewer directions than either"
        )
    rows = sp.csr_matrix(matrix, dtype=np.float64)
    return CACHE.get("item factors", (matrix, int(rank)), lambda: _leading(rows, int(rank)))


def _leading(matrix: sp.csr_matrix, rank: int) -> Floats:
    """Compute the factors (I, r) of ``matrix`` (U, I)."""
    if matrix.shape[0] * matrix.shape[1] <= DENSE_CELLS:
        vectors = np.linalg.svd(matrix.toarray(), full_matrices=False)[2][:rank].T  # (I, r)
    else:
        start = np.random.default_rng(0).standard_normal(min(matrix.shape))
        _, values, rows = svds(matrix, k=rank, v0=start)
        vectors = rows[np.argsort(-values, kind="stable")].T  # (I, r)
    size = np.abs(vectors)
    # The tolerance makes the choice between entries of equal size independent of rounding.
    first = np.argmax(size >= size.max(axis=0) * (1 - 1e-6), axis=0)  # (r,)
    signs = np.sign(vectors[first, np.arange(rank)])  # (r,)
    return np.ascontiguousarray(vectors * signs, dtype=np.float32)
