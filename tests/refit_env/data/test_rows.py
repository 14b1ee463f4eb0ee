"""A batch of sparse rows equals the rows of the dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refit_env.data.rows import SparseRows, without

matrices = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 30)),
    elements=st.sampled_from([0.0, 0.0, 1.0, 0.25]),
)


@given(matrices, st.data())
@settings(max_examples=100)
def test_every_reader_agrees_with_the_dense_matrix(dense: np.ndarray, data: st.DataObject) -> None:
    rows = SparseRows(sp.csr_matrix(dense))
    picked = data.draw(st.lists(st.integers(0, len(dense) - 1), min_size=1, max_size=5))
    users = torch.tensor(picked)
    columns = torch.from_numpy(
        data.draw(hnp.arrays(np.int64, (len(picked), 4), elements=st.integers(0, dense.shape[1] - 1)))
    )
    expected = torch.from_numpy(dense[picked])
    assert torch.equal(rows.dense(users), expected)
    assert torch.equal(rows.mask(users), expected != 0)
    assert torch.equal(rows.at(users, columns), expected.gather(1, columns))
    assert torch.equal(rows.fill(expected + 1, users, 7.0), torch.where(expected != 0, 7.0, expected + 1))
    assert torch.equal(rows.counts(users), (expected != 0).sum(1))


def test_rows_whose_columns_are_out_of_order_are_read_right() -> None:
    matrix = sp.csr_matrix((np.array([1.0, 2.0, 3.0]), np.array([2, 0, 1]), np.array([0, 3])), shape=(1, 4))
    rows = SparseRows(matrix)
    assert rows.at(torch.tensor([0]), torch.tensor([[0, 1, 2, 3]])).tolist() == [[2.0, 3.0, 1.0, 0.0]]


@given(matrices, st.data())
@settings(max_examples=50)
def test_without_removes_exactly_the_stored_entries(dense: np.ndarray, data: st.DataObject) -> None:
    other = data.draw(hnp.arrays(np.float32, dense.shape, elements=st.sampled_from([0.0, 1.0, 3.0])))
    left = without(sp.csr_matrix(dense), sp.csr_matrix(other))
    assert np.array_equal(left.toarray(), np.where(other != 0, 0.0, dense))
    assert left.has_sorted_indices and bool((left.data != 0).all())


@pytest.mark.parametrize(("num_items", "dtype"), [(10, torch.int32), (2**30, torch.int64)])
def test_keys_are_short_where_they_can_be(num_items: int, dtype: torch.dtype) -> None:
    last = num_items - 1
    matrix = sp.csr_matrix(([0.5, 2.0, 3.0], ([0, 0, 1], [1, last, last])), shape=(2, num_items))
    rows = SparseRows(matrix)
    assert rows.keys.dtype == dtype
    users, columns = torch.tensor([0, 1]), torch.tensor([[1, last], [1, last]])
    assert rows.at(users, columns).tolist() == [[0.5, 2.0], [0.0, 3.0]]
    assert rows.entries(users)[1].tolist() == [1, last, last]
