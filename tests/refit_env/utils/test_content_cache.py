"""Tests of the cache: keys cover all of the content, and old results are evicted."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from refit_env.utils.content_cache import CAPACITY, ContentCache


def test_equal_content_is_one_entry_and_other_content_another() -> None:
    cache: ContentCache[object] = ContentCache()
    rows = sp.csr_matrix(np.eye(3, dtype=np.float32))
    one = cache.get(rows, 1, object)
    assert cache.get(rows.copy(), 1, object) is one
    assert cache.get(rows, 2, object) is not one
    same_bytes = rows.copy()
    same_bytes.data = rows.data.view(np.int32)
    assert cache.get(same_bytes, 1, object) is not one
    parts = [np.arange(2), np.arange(4)], [np.append(np.arange(2), 0), np.arange(1, 4)]
    assert cache.get(rows, 1, object, parts[0]) is not cache.get(rows, 1, object, parts[1])


def test_the_oldest_result_is_evicted() -> None:
    cache: ContentCache[object] = ContentCache()
    rows = sp.csr_matrix(np.eye(3))
    first = cache.get(rows, 0, object)
    for number in range(1, CAPACITY + 1):
        cache.get(rows, number, object)
    assert cache.get(rows, 0, object) is not first
