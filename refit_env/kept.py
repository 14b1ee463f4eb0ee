"""Results that are kept by the content of what they were made from.

Environments, agents and evaluations of one process often build the same rows independently; what is dear to
work out from them (neighbours, factors) is then shared.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Array = TypeVar("Array", bound=npt.NDArray[Any])

KEPT = 8
"""Results of a kind that are kept for the next who asks."""


class Kept(Generic[Array]):
    """The last eight arrays of one kind."""

    def __init__(self) -> None:
        """Begin with none."""
        self._known: OrderedDict[tuple[str, int], Array] = OrderedDict()

    def get(
        self,
        matrix: sp.csr_matrix,
        number: int,
        make: Callable[[], Array],
        others: Iterable[npt.NDArray[Any]] = (),
    ) -> Array:
        """The array that was made from the same content, else a new one; read-only.

        Args:
            matrix: the rows.
            number: what else it depends on.
            make: makes it.
            others: further arrays that it depends on.
        """
        digest = hashlib.blake2b(repr(matrix.shape).encode(), digest_size=16)
        for array in (matrix.indptr, matrix.indices, matrix.data, *others):
            digest.update(np.ascontiguousarray(array).data)
        key = (digest.hexdigest(), number)
        if key not in self._known:
            self._known[key] = make()
            self._known[key].setflags(write=False)
        self._known.move_to_end(key)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return self._known[key]
