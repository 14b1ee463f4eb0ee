"""A pool of arrays, each used again when no caller holds a reference to it.

A vector environment returns one large array at every step. Allocating it anew costs a page fault for each of
its pages, which is slower than the copy itself. Writing to the same array again would change an
observation that the caller may still hold. So the pool reads the reference counts.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class ArrayPool:
    """Returns float32 arrays of one shape; each belongs to the caller until its last reference is gone.

    An array, a view of it and a tensor made from it each hold a reference, so the reference count shows
    whether an array is free. The count of a free array is measured by the same code that compares later,
    because interpreters count references differently.

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
            keep: most arrays in the pool; a caller that holds more gets new ones.
        """
        self.shape, self.keep = shape, keep
        self._arrays: list[FloatArray] = [np.empty(0, np.float32)]
        self._free = self._references(0)
        self._arrays.clear()

    def take(self) -> FloatArray:
        """Return an array without other references; its content is undefined."""
        for i in range(len(self._arrays)):
            if self._references(i) == self._free:
                return self._arrays[i]
        array = np.empty(self.shape, np.float32)
        if len(self._arrays) < self.keep:
            self._arrays.append(array)
        return array

    def _references(self, i: int) -> int:
        """Return the number of references to array ``i``, this pool's included."""
        return sys.getrefcount(self._arrays[i])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy as an empty pool."""
        return ArrayPool, (self.shape, self.keep)
