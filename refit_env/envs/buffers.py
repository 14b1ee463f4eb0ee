"""Output arrays that are used again only when nobody else holds them.

A vector environment returns megabytes at every step. Fresh memory costs a page fault every 4 KiB;
handing the same array out twice would change what the caller still holds. So: a pool that looks at
the reference counts.

Letters: N sub-environments, D size of the diffused vector.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

CHUNK_BYTES = 1 << 18
"""Bytes copied before they are checked: they are then still in the processor's cache."""

MOST = 64
"""Arrays that the pool remembers; more in use at once are made and forgotten."""


class ArrayPool:
    """Hands out float32 arrays of one shape, none of which the caller can still see otherwise.

    Views and ``torch.from_numpy`` tensors hold a reference to their array, so an array that any of them
    is alive of is not handed out again.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Serve arrays of ``shape``."""
        self.shape = shape
        self._arrays: list[FloatArray] = []

    def take(self) -> FloatArray:
        """An array that nobody else holds; its content is arbitrary."""
        for index in range(len(self._arrays)):
            if sys.getrefcount(self._arrays[index]) == 2:  # the list's and the call's own
                return self._arrays[index]
        array = np.empty(self.shape, dtype=np.float32)
        if len(self._arrays) < MOST:
            self._arrays.append(array)
        return array


def copy_checked(source: FloatArray, target: FloatArray) -> bool:
    """Copy rows (N, D) and say whether all numbers are finite, in one pass over memory.

    NaN and infinity survive a sum of squares. A sum may also overflow by itself: then False is returned
    for finite numbers, and the caller must look closer.
    """
    rows = max(1, CHUNK_BYTES // max(source[0].nbytes, 1)) if len(source) else 1
    total = 0.0
    for start in range(0, len(source), rows):
        piece = target[start : start + rows]
        piece[...] = source[start : start + rows]
        flat = piece.reshape(-1)
        total += float(np.dot(flat, flat))
    return bool(np.isfinite(total))
