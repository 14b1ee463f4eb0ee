"""Nearest users equal a dense oracle in whole-number arithmetic, ties by id."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refit_env import neighbors
from refit_env.data import load_dataset
from refit_env.neighbors import (
    approximate_users,
    cached_neighbors,
    nearest_users,
    nearest_vectors,
    neighbor_average,
)

tables = hnp.arrays(np.int64, st.tuples(st.integers(1, 12), st.integers(1, 6)), elements=st.integers(0, 1))
counts = hnp.arrays(np.int64, st.tuples(st.integers(1, 8), st.integers(1, 5)), elements=st.integers(0, 4))


def oracle(rows: np.ndarray, k: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Rank by exact fractions: squared cosine, without zero products and the user's group, ties by id."""
    groups = np.arange(len(rows)) if groups is None else groups
    out = np.full((len(rows), k), -1)
    for u, row in enumerate(rows):
        found = []
        for v, other in enumerate(rows):
            dot = int(row @ other)
            if groups[v] != groups[u] and dot > 0:
                found.append((-Fraction(dot * dot, int(row @ row) * int(other @ other)), v))
        best = [v for _, v in sorted(found)[:k]]
        out[u, : len(best)] = best
    return out


@pytest.mark.parametrize("chunk", [1, 3, 512])
@given(rows=st.one_of(tables, counts), k=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_neighbours_equal_the_exact_oracle(chunk: int, rows: np.ndarray, k: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "CHUNK", chunk)
        patch.setattr(neighbors, "SPARE", 0)  # so that ties also cross the limit of candidates
        users, similarity = nearest_users(sp.csr_matrix(rows), k)
    assert np.array_equal(users, oracle(rows, k))
    assert users.dtype == np.int64 and similarity.dtype == np.float32
    unit = rows / np.maximum(np.sqrt((rows**2).sum(1, keepdims=True)), 1e-12)
    expected = np.where(users >= 0, np.take_along_axis(unit @ unit.T, users.clip(0), 1), 0.0)
    assert np.allclose(similarity, expected, atol=1e-6)


@pytest.mark.parametrize("chunk", [2, 512])
@given(rows=tables, k=st.integers(1, 4), size=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_members_of_a_group_are_not_neighbours(chunk: int, rows: np.ndarray, k: int, size: int) -> None:
    groups = 7 * (np.arange(len(rows)) // size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "CHUNK", chunk)
        patch.setattr(neighbors, "SPARE", 0)
        users, _ = nearest_users(sp.csr_matrix(rows), k, groups)
    assert np.array_equal(users, oracle(rows, k, groups))


def test_many_equal_users_are_ordered_by_id() -> None:
    users, similarity = nearest_users(sp.csr_matrix(np.ones((100, 3))), k=4)
    assert users[0].tolist() == [1, 2, 3, 4]
    assert users[99].tolist() == [0, 1, 2, 3]
    assert users[2].tolist() == [0, 1, 3, 4]
    assert np.allclose(similarity, 1.0)


def test_equal_cosines_of_different_counts_are_ties() -> None:
    """1 / sqrt(2) = 3 / sqrt(18): floating-point sums differ in the last digit, the fractions do not."""
    rows = np.zeros((3, 22), dtype=np.int64)
    rows[0, :3] = 1
    rows[1, [0, 1, 2, *range(4, 19)]] = 1  # 3 common items of 18
    rows[2, [0, 3]] = 1  # 1 common item of 2
    assert nearest_users(sp.csr_matrix(rows), k=2)[0][0].tolist() == [1, 2]
    assert nearest_users(sp.csr_matrix(rows[[0, 2, 1]]), k=2)[0][0].tolist() == [1, 2]


def test_weighted_rows_are_ranked_by_cosine() -> None:
    rows = sp.csr_matrix(np.random.default_rng(0).random((40, 10)))
    dense = rows.toarray() / np.linalg.norm(rows.toarray(), axis=1, keepdims=True)
    product = dense @ dense.T
    np.fill_diagonal(product, -1)
    assert np.array_equal(nearest_users(rows, k=5)[0], np.argsort(-product, axis=1, kind="stable")[:, :5])


def test_user_without_items_has_no_neighbours() -> None:
    users, similarity = nearest_users(sp.csr_matrix(np.array([[1, 1], [0, 0], [1, 0]])), k=2)
    assert users.tolist() == [[2, -1], [-1, -1], [0, -1]]
    assert similarity[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("rows", "k", "message"), [([[1.0]], 0, "at least 1"), ([[-1.0]], 1, "negative")])
def test_invalid_arguments_are_refused(rows: list[list[float]], k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest_users(sp.csr_matrix(rows), k)


def test_average_counts_missing_neighbours_as_empty() -> None:
    rows = sp.csr_matrix(np.array([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]]))
    average = neighbor_average(np.array([[1, 2], [0, -1], [-1, -1]]), rows)
    assert average.toarray().tolist() == [[0.0, 0.5, 0.5], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("name", ["ml-1m", "gowalla"])
def test_real_users_have_their_exact_neighbours(data_home: Path, name: str) -> None:
    if not (data_home / name).is_dir():
        pytest.skip(f"no {name} in {data_home}")
    rows = load_dataset(name).train.csr
    users = nearest_users(rows, k=10)[0]
    counts = np.diff(rows.indptr).astype(np.int64)
    for u in np.random.default_rng(0).integers(0, len(users), 50):
        common = np.rint((rows @ rows[u].T).toarray().ravel()).astype(np.int64)
        common[u] = 0
        # Squared cosine times the user's count: quotients of whole numbers, rounded correctly.
        best = np.lexsort((np.arange(len(users)), -(common**2 / np.maximum(counts, 1))))[:10]
        assert np.array_equal(users[u], np.where(common[best] > 0, best, -1))


def test_the_same_rows_are_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(neighbors, "nearest_users", lambda m, k, g: calls.append(k) or nearest_users(m, k, g))
    rows = np.random.default_rng(1).integers(0, 2, (30, 9)).astype(np.float32)
    first = cached_neighbors(sp.csr_matrix(rows), 3)
    assert cached_neighbors(sp.csr_matrix(rows.copy()), 3) is first
    cached_neighbors(sp.csr_matrix(rows), 4)
    rows[0, 0] = 1 - rows[0, 0]
    cached_neighbors(sp.csr_matrix(rows), 3)
    assert calls == [3, 4, 3]
    cached_neighbors(sp.csr_matrix(rows), 3, np.arange(30) // 2)  # other groups have other neighbours
    assert calls == [3, 4, 3, 3]
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 7


def test_dense_vectors_have_the_neighbours_of_sparse_rows() -> None:
    rng = np.random.default_rng(0)
    rows = rng.random((700, 12)) * (rng.random((700, 12)) < 0.4)
    rows[5] = 0.0
    groups = rng.integers(0, 300, 700)
    expected, similarity = nearest_users(sp.csr_matrix(rows), 6, groups)
    found = nearest_vectors(rows.astype(np.float32), 6, groups)
    clear = np.diff(similarity, axis=1).max(axis=1) < -1e-5  # no ties
    assert clear.sum() > 600 and (found[clear] == expected[clear]).all()
    assert (found[5] == -1).all() and not (found == 5).any()


def test_dense_vectors_tie_to_the_lower_id() -> None:
    vectors = np.array([[1.0, 0], [0, 1], [0, 2], [0, 3], [1, 0]], dtype=np.float32)
    assert nearest_vectors(vectors, 2).tolist() == [[4, -1], [2, 3], [1, 3], [1, 2], [0, -1]]


def test_the_approximate_search_finds_most_of_the_nearest_users() -> None:
    pytest.importorskip("faiss", reason="the extra neighbors: pip install -e '.[neighbors]'")
    rng = np.random.default_rng(0)
    homes = rng.integers(10, size=600)
    rows = sp.csr_matrix(
        (rng.random((600, 200)) < np.where(np.arange(200) % 10 == homes[:, None], 0.5, 0.03)) * 1.0
    )
    groups = np.arange(600) // 2
    for some in (None, groups):
        exact, near = nearest_users(rows, 5, some), approximate_users(rows, 5, some)
        found = [np.isin(b, a).mean() for a, b in zip(exact[0], near[0], strict=True)]
        assert np.mean(found) > 0.9
        assert near[1].sum() > 0.99 * exact[1].sum() and (near[1] <= exact[1] + 1e-6).all()
        if some is not None:
            assert (groups[near[0]] != groups[:, None]).all()
