from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from agents.baselines import matrices
from agents.baselines.matrices import known_sets, nearest_columns
from refit_env.data import Dataset, Interactions


def test_a_product_in_parts_is_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sp.random(40, 15, 0.3, format="csr", random_state=1)
    whole = (rows @ rows.T).toarray()
    np.fill_diagonal(whole, 0.0)
    monkeypatch.setattr(matrices, "CELLS", 60)
    seen: list[slice] = []

    def note(part: sp.csr_matrix, where: slice) -> sp.csr_matrix:
        seen.append(where)
        return part

    found = nearest_columns(rows, sp.csr_matrix(rows.T), 40, note)
    np.testing.assert_allclose(found.toarray(), whole, atol=1e-12)
    assert len(seen) > 3 and seen[0].start == 0 and seen[-1].stop == 40


def test_sessions_are_the_train_rows_with_their_targets() -> None:
    train = Interactions.from_pairs([0, 0, 0, 1, 1], [4, 2, 4, 0, 1], num_users=3, num_items=5)
    valid = Interactions.from_pairs([2, 2], [3, 1], num_users=3, num_items=5)
    none = Interactions.from_pairs([], [], num_users=3, num_items=5)
    data = Dataset("shop", "sequential", train, valid, none, time_ordered=True)
    assert known_sets(data.episodes).toarray().tolist() == [[0, 0, 1, 0, 1], [1, 1, 0, 0, 0]]
