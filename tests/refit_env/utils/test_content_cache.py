"""The one cache of a process: results are found by content, and by all of it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import scipy.sparse as sp

from refit_env.utils.content_cache import CAPACITY, LARGE, ContentCache


def test_content_decides_and_nothing_passes_for_another() -> None:
    cache = ContentCache()
    rows = sp.csr_matrix(np.eye(3, dtype=np.float32))
    one = cache.get("a", (rows, 1), object)
    assert cache.get("a", (rows.copy(), 1), object) is one
    assert cache.get("a", (rows, 2), object) is not one
    assert cache.get("b", (rows, 1), object) is not one
    same_bytes = rows.copy()
    same_bytes.data = rows.data.view(np.int32)
    assert cache.get("a", (same_bytes, 1), object) is not one
    parts = [np.arange(2), np.arange(4)], [np.append(np.arange(2), 0), np.arange(1, 4)]
    assert cache.get("a", (rows, *parts[0]), object) is not cache.get("a", (rows, *parts[1]), object)


def test_the_least_recently_used_result_of_any_kind_is_evicted() -> None:
    cache = ContentCache()
    first, second = cache.get("a", (0,), object), cache.get("b", (0,), object)
    for number in range(1, CAPACITY - 1):
        cache.get("c", (number,), object)
    assert cache.get("a", (0,), object) is first  # used again
    cache.get("c", (CAPACITY,), object)
    assert len(cache) == CAPACITY
    assert cache.get("a", (0,), object) is first
    assert cache.get("b", (0,), object) is not second


def test_an_array_is_read_only() -> None:
    cache = ContentCache()
    made = cache.get("a", (), lambda: np.zeros(3))
    with pytest.raises(ValueError, match="read-only"):
        made[0] = 1.0


def test_threads_that_compute_the_same_share_one_result() -> None:
    cache, gate, found = ContentCache(), threading.Barrier(2), []

    def make() -> object:
        gate.wait()  # both are computing
        return object()

    threads = [threading.Thread(target=lambda: found.append(cache.get("a", (), make))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is found[1] and len(cache) == 1


def test_a_large_result_is_evicted_before_another_is_made() -> None:
    cache = ContentCache()
    small = cache.get("a", (0,), object)
    first = cache.get("b", (0,), object, LARGE)
    assert cache.get("b", (0,), object, LARGE) is first
    held = []
    cache.get("b", (1,), lambda: held.append(len(cache)), LARGE)
    assert held == [1]  # the small one
    assert cache.get("a", (0,), object) is small
    assert cache.get("b", (0,), object, LARGE) is not first
