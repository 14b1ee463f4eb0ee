"""The largest values of the rows of a sparse matrix.

Letters: N rows of a matrix, M columns, k values that are kept.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def largest_of_rows(matrix: sp.csr_matrix, k: int) -> sp.csr_matrix:
    """Keep the k largest stored values of each row; ties go to the lower column.

    Args:
        matrix: (N, M).
        k: number of values to keep, >= 1.

    Example:
        >>> largest_of_rows(sp.csr_matrix([[1.0, 3.0, 2.0, 2.0], [0.0, 1.0, 0.0, 0.0]]), 2).toarray()
        array([[0., 3., 2., 0.],
               [0., 1., 0., 0.]])
    """
    matrix = matrix.sorted_indices()
    keep = np.ones(matrix.nnz, dtype=bool)
    for row in np.flatnonzero(np.diff(matrix.indptr) > k):
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        values = matrix.data[part]
        edge = np.partition(values, values.size - k)[values.size - k]
        above = values > edge
        ties = np.flatnonzero(values == edge)[: k - int(above.sum())]
        above[ties] = True
        keep[part] = above
    counts = np.add.reduceat(np.append(keep, False), matrix.indptr[:-1]) * (np.diff(matrix.indptr) > 0)
    indptr = np.append(0, np.cumsum(counts))
    return sp.csr_matrix((matrix.data[keep], matrix.indices[keep], indptr), shape=matrix.shape)
