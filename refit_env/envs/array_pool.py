"""Arrays that are used again once nobody holds them.

A vector environment gives one large array away at every step. Made afresh, each of its pages costs a fault
at the first write, which takes longer than the copy itself; written in place, it would change in the
caller's hands. So: a pool that looks at the reference counts.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class ArrayPool:
    """Gives float32 arrays of one shape; each is the caller's own until the caller lets go of it.

    Whoever holds an array, a view of it, or a tensor made from it holds a reference, so the reference
    count tells whether an array is free. What the count of a free one is, is measured by the same lines
    that ask later, because interpreters differ in the references that they count.

    Example:
        >>> pool = ArrayPool((2,))
        >>> first = pool.take()
        >>> view = first[:1]
        >>> del first
        >>> pool.take() is view.base  # the view still holds it
        False
        >>> address = view.base.ctypes.data
        >>> del view
        >>> pool.take().ctypes.data == address
        True
    """

    def __init__(self, shape: tuple[int, ...], keep: int = 4) -> None:
        """Make an empty pool.

        Args:
            shape: of the arrays.
            keep: arrays that are remembered; a caller who holds more of them gets fresh ones.
        """
        self.shape, self.keep = shape, keep
        self._arrays: list[FloatArray] = [np.empty(0, np.float32)]
        self._free = self._references(0)
        self._arrays.clear()

    def take(self) -> FloatArray:
        """An array that nobody else holds; its content is undefined."""
        for i in range(len(self._arrays)):
            if self._references(i) == self._free:
                return self._arrays[i]
        array = np.empty(self.shape, np.float32)
        if len(self._arrays) < self.keep:
            self._arrays.append(array)
        return array

    def _references(self, i: int) -> int:
        """How many references to array ``i`` there are, this pool's included."""
        return sys.getrefcount(self._arrays[i])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy as an empty pool: memory is not state."""
        return ArrayPool, (self.shape, self.keep)
