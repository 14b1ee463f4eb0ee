"""Ridge regressions of few rows are solved by rows, and are those of the system of items."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from refit_env.utils.ridge import ridge_weights


@pytest.mark.parametrize("shape", [(30, 80), (80, 30)], ids=["few rows", "few items"])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-6), (np.float32, 1e-5)])
@pytest.mark.parametrize("l2", [1.0, 50.0])
def test_each_item_is_regressed_on_all_others(
    shape: tuple[int, int], dtype: type[np.floating], tolerance: float, l2: float
) -> None:
    x = (np.random.default_rng(0).random(shape) < 0.2).astype(np.float64)
    found = ridge_weights(sp.csr_matrix(x), l2, None, "cpu", dtype).numpy()
    for item in range(0, shape[1], 7):
        others = np.arange(shape[1]) != item
        gram = x[:, others].T @ x[:, others] + l2 * np.eye(shape[1] - 1)
        expected = np.linalg.solve(gram, x[:, others].T @ x[:, item])
        assert found[others, item] == pytest.approx(expected, abs=tolerance)
    assert not np.diag(found).any()
