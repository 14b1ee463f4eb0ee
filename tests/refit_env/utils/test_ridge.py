"""Ridge regressions by rows or by items, in float64 or float32, in little memory."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from refit_env.utils import ridge
from refit_env.utils.ridge import inverse_of, ridge_weights


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


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_the_inverse_is_computed_in_the_memory_of_the_gram_matrix(
    dtype: type[np.floating], tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = (np.random.default_rng(1).random((90, 40)) < 0.2).astype(np.float64)
    monkeypatch.setattr(ridge, "BLOCK", 7)  # several blocks, the last of them shorter
    made, places = ridge.gram_matrix, []

    def noted(*given: object) -> torch.Tensor:
        gram: torch.Tensor = made(*given)  # type: ignore[arg-type]
        places.append(gram.data_ptr())
        return gram

    monkeypatch.setattr(ridge, "gram_matrix", noted)
    found = inverse_of(sp.csr_matrix(x), 3.0, "cpu", dtype)
    assert places == [found.data_ptr()]
    np.testing.assert_allclose(found.numpy(), np.linalg.inv(x.T @ x + 3.0 * np.eye(40)), atol=tolerance)


def test_a_system_that_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sp.csr_matrix(np.ones((9, 5)))
    monkeypatch.setattr("refit_env.utils.memory.free_memory", lambda device: 100)
    assert inverse_of(rows, 1.0, "cpu", np.float32).shape == (5, 5)  # 5 * 5 * 4 bytes
    with pytest.raises(
        ValueError, match="a system of 5 equations in float64 needs 200 bytes of memory; 100 bytes are free"
    ):
        inverse_of(rows, 1.0, "cpu", np.float64)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_solves_the_same_system() -> None:
    rows = sp.csr_matrix((np.random.default_rng(2).random((3000, 1500)) < 0.05).astype(np.float64))
    found = ridge_weights(rows, 20.0, None, "cuda", np.float32)
    assert found.device.type == "cuda"
    np.testing.assert_allclose(found.cpu(), ridge_weights(rows, 20.0, None, "cpu"), atol=1e-4)
