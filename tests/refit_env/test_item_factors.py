"""Item factors equal NumPy's full decomposition, by both methods, in every process."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refit_env import item_factors as factors_module
from refit_env.data import synthesize
from refit_env.item_factors import item_factors


@st.composite
def matrices(draw: Any) -> tuple[np.ndarray, int]:
    """Draw a small matrix of interactions, of any rank, and a valid rank for its factors."""
    shape = draw(st.tuples(st.integers(2, 12), st.integers(2, 12)))
    values = st.sampled_from([0.0, 0.0, 1.0, 2.5])
    matrix = draw(hnp.arrays(np.float64, shape, elements=values))
    return matrix, draw(st.integers(1, min(shape) - 1))


@given(matrices())
def test_factors_lose_least_of_the_matrix_and_are_orthonormal(case: tuple[np.ndarray, int]) -> None:
    matrix, rank = case
    found = item_factors(sp.csr_matrix(matrix), rank)
    assert found.shape == (matrix.shape[1], rank) and found.dtype == np.float32
    assert np.allclose(found.T @ found, np.eye(rank), atol=1e-5)
    left = matrix - matrix @ found @ found.T
    # Eckart and Young: no other factors have a smaller error
    least = np.linalg.svd(matrix, compute_uv=False)[rank:]
    assert np.linalg.norm(left) == pytest.approx(np.linalg.norm(least), abs=1e-4)


@given(matrices())
def test_columns_descend_in_weight_and_have_a_fixed_sign(case: tuple[np.ndarray, int]) -> None:
    matrix, rank = case
    found = item_factors(sp.csr_matrix(matrix), rank)
    weight = np.linalg.norm(matrix @ found, axis=0)
    assert np.allclose(weight, np.linalg.svd(matrix, compute_uv=False)[:rank], atol=1e-4)
    size = np.abs(found)
    for column in range(rank):
        largest = found[size[:, column] >= size[:, column].max() * (1 - 1e-6), column]
        assert largest[0] > 0


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 11), st.tuples(st.integers(20, 40), st.integers(12, 40)))
def test_lanczos_equals_the_full_decomposition(seed: int, rank: int, shape: tuple[int, int]) -> None:
    matrix = sp.csr_matrix(np.random.default_rng(seed).random(shape))  # distinct singular values
    whole = factors_module._leading(matrix, rank)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factors_module, "DENSE_CELLS", 0)
        sparse = factors_module._leading(matrix, rank)
    assert np.allclose(sparse, whole, atol=1e-4)


def test_the_same_rows_are_decomposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = synthesize(num_users=30, num_items=40, num_clusters=4).train.csr
    first = item_factors(rows, 5)
    monkeypatch.setattr(factors_module, "_leading", None)  # a second call would fail
    assert item_factors(rows.copy(), 5) is first
    assert not first.flags.writeable
    changed = rows.copy()
    changed.data[0] = 2.0
    with pytest.raises(TypeError):
        item_factors(changed, 5)


def test_every_process_computes_the_same_factors() -> None:
    code = (
        "import hashlib; from refit_env import item_factors; from refit_env.data import synthesize\n"
        ""
        "item_factors.DENSE_CELLS = 0\n"
        "print(hashlib.sha256(item_factors.item_factors(synthesize().train.csr, 16).tobytes()).hexdigest())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1] and len(runs[0]) == 65


@pytest.mark.parametrize("rank", [0, 3, -1, True, 2.0, "2"])
def test_an_impossible_rank_is_refused(rank: Any) -> None:
    with pytest.raises(ValueError, match=r"must be a whole number in 1\.\.2: there are 3 users and 5 items"):
        item_factors(sp.csr_matrix((3, 5)), rank)
