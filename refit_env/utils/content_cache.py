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

Thing = TypeVar("Thing")

KEPT = 8
"""Results of a kind that are kept for the next who asks."""


class Kept(Generic[Thing]):
    """The last eight things of one kind."""

    def __init__(self) -> None:
        """Begin with none."""
        self._known: OrderedDict[tuple[str, int], Thing] = OrderedDict()

    def get(
        self,
        matrix: sp.csr_matrix,
        number: int,
        make: Callable[[], Thing],
        others: Iterable[npt.NDArray[Any]] = (),
    ) -> Thing:
        """What was made from the same content, else a new one; an array is read-only, nothing may be changed.

        Args:
            matrix: the rows.
            number: what else it depends on.
            make: makes it.
            others: further arrays that it depends on.
        """
        digest = hashlib.blake2b(repr(matrix.shape).encode(), digest_size=16)
        for array in (matrix.indptr, matrix.indices, matrix.data, *others):
            digest.update(f"{array.dtype.str}{array.shape}".encode())  # or bytes could pass for another's
            digest.update(np.ascontiguousarray(array).data)
        key = (digest.hexdigest(), number)
        if key not in self._known:
            made = self._known[key] = make()
            if isinstance(made, np.ndarray):
                made.setflags(write=False)
        self._known.move_to_end(key)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return self._known[key]
