"""One cache per process for expensive results, keyed by the content of their inputs.

Environments, agents and evaluations of one process often build equal rows independently; they share the
neighbours, item factors, linear models, policies and data sets that are computed from them.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from refit_env.utils.locks import fork_lock

Thing = TypeVar("Thing")

CAPACITY = 24
"""Most results in the cache; the least recently used one is evicted."""
LARGE = 2**30
"""Bytes of a large result: the cache holds one of them, and evicts it before another is computed."""
_LOCK = fork_lock()


class ContentCache:
    """A cache of results by their inputs; the least recently used one is evicted."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        """Create an empty cache that holds ``capacity`` results."""
        self.capacity = capacity
        self._results: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._large: set[tuple[Any, ...]] = set()

    def __len__(self) -> int:
        """Return the number of cached results."""
        return len(self._results)

    def get(self, kind: str, parts: Iterable[Any], make: Callable[[], Thing], size: int = 0) -> Thing:
        """Return the cached result of equal inputs, or compute it.

        Args:
            kind: name of the kind of result; different kinds never share a result.
            parts: everything that the result depends on. Arrays and CSR matrices are compared by content,
                shape and type, other parts by equality.
            make: computes the result.
            size: bytes of the result, if it may be large.

        Returns:
            The result, which all callers share: it must not be changed; an array is read-only.
        """
        key = (kind, *map(_key, parts))
        with _LOCK:
            if key in self._results:
                self._results.move_to_end(key)
                found: Thing = self._results[key]
                return found
            if size >= LARGE:
                for other in self._large:
                    self._results.pop(other, None)
                self._large = {key}
        made = make()
        if isinstance(made, np.ndarray):
            made.setflags(write=False)
        with _LOCK:
            kept: Thing = self._results.setdefault(key, made)  # another thread may have computed it
            self._results.move_to_end(key)
            while len(self._results) > self.capacity:
                self._results.popitem(last=False)
        return kept

    def clear(self) -> None:
        """Evict all results."""
        with _LOCK:
            self._results.clear()
            self._large.clear()


CACHE = ContentCache()
"""The cache of this process."""


def _key(part: Any) -> Any:
    """Return a hashable key for a part."""
    if isinstance(part, sp.csr_matrix):
        arrays = (part.indptr, part.indices, part.data)
        return ("csr", part.shape, *map(_digest, arrays))
    return _digest(part) if isinstance(part, np.ndarray) else part


def _digest(array: npt.NDArray[Any]) -> str:
    """Return a hash of an array's content, shape and type."""
    digest = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
