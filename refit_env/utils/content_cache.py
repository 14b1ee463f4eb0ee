"""Caches expensive results, keyed by a hash of the input.

Environments, agents and evaluations of one process often build equal matrices independently; they share the
results that are computed from them (neighbours, factors).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Value = TypeVar("Value")

CAPACITY = 8
"""Results that a cache holds; the least recently used one is evicted."""


class ContentCache(Generic[Value]):
    """A cache of the last eight results of one kind."""

    def __init__(self) -> None:
        """Create an empty cache."""
        self._known: OrderedDict[tuple[str, int], Value] = OrderedDict()

    def get(
        self,
        matrix: sp.csr_matrix,
        number: int,
        make: Callable[[], Value],
        others: Iterable[npt.NDArray[Any]] = (),
    ) -> Value:
        """Return the cached result of equal inputs, or compute it. Callers must not change it.

        Args:
            matrix: a matrix that the result depends on.
            number: a setting that it depends on.
            make: computes the result; an array becomes read-only.
            others: further arrays that it depends on.
        """
        digest = hashlib.blake2b(repr(matrix.shape).encode(), digest_size=16)
        for array in (matrix.indptr, matrix.indices, matrix.data, *others):
            # else equal bytes of other types collide
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        key = (digest.hexdigest(), number)
        if key not in self._known:
            made = self._known[key] = make()
            if isinstance(made, np.ndarray):
                made.setflags(write=False)
        self._known.move_to_end(key)
        while len(self._known) > CAPACITY:
            self._known.popitem(last=False)
        return self._known[key]
