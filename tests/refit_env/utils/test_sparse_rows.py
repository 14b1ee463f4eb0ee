from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from refit_env.utils.sparse_rows import largest_of_rows


def test_the_largest_of_each_row_are_kept_ties_to_the_lower_column() -> None:
    rng = np.random.default_rng(0)
    dense = rng.integers(-2, 5, (30, 12)) * (rng.random((30, 12)) < 0.7) * 1.0
    for k in (1, 3, 20):
        found = largest_of_rows(sp.csr_matrix(dense), k).toarray()
        for row, kept in zip(dense, found, strict=True):
            stored = np.flatnonzero(row)
            best = stored[np.lexsort((stored, -row[stored]))][:k]
            wanted = np.zeros(12)
            wanted[best] = row[best]
            assert kept.tolist() == wanted.tolist()
