"""Kept results: found by content, and by all of it."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from refit_env.utils.content_cache import KEPT, Kept


def test_content_decides_and_nothing_passes_for_another() -> None:
    kept: Kept[object] = Kept()
    rows = sp.csr_matrix(np.eye(3, dtype=np.float32))
    one = kept.get(rows, 1, object)
    assert kept.get(rows.copy(), 1, object) is one
    assert kept.get(rows, 2, object) is not one
    same_bytes = rows.copy()
    same_bytes.data = rows.data.view(np.int32)
    assert kept.get(same_bytes, 1, object) is not one
    parts = [np.arange(2), np.arange(4)], [np.append(np.arange(2), 0), np.arange(1, 4)]
    assert kept.get(rows, 1, object, parts[0]) is not kept.get(rows, 1, object, parts[1])


def test_only_the_newest_are_kept() -> None:
    kept: Kept[object] = Kept()
    rows = sp.csr_matrix(np.eye(3))
    first = kept.get(rows, 0, object)
    for number in range(1, KEPT + 1):
        kept.get(rows, number, object)
    assert kept.get(rows, 0, object) is not first
