"""Reads ``.npy`` files of (user, item) pairs, after checking the header against the size of the file.

Letters: N rows.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refit_env.data.filters import RawRows
from refit_env.data.messages import listed, reason
from refit_env.data.readers.delimited import refuse_pickle
from refit_env.errors import DataError


def read_pairs(path: Path) -> RawRows:
    """Read the users and items of an ``.npy`` file of shape (N, 2).

    Raises:
        DataError: if the file is not such an array, or a value is not a whole number >= 0; the message names
            the row.
    """
    pairs = _read(path)
    wrong = ~((pairs >= 0) & (pairs < 2**62) & (pairs == np.floor(pairs)))  # includes NaN
    if wrong.any():
        row, column = (int(n) for n in np.argwhere(wrong)[0])
        who = ("user", "item")[column]
        raise DataError(f"{path} row {row}: {who} {pairs[row, column]} is not a whole number >= 0")
    return RawRows(pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64))


def _read(path: Path) -> npt.NDArray[Any]:
    """Read (N, 2) numbers; refuse a file whose size differs from what its header states."""
    refuse_pickle(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = header(file)
        except Exception as error:  # a damaged header can fail in any way
            raise DataError(f"{path}: not a whole NumPy array of numbers ({reason(error)})") from None
        if len(shape) != 2 or shape[1] != 2:
            raise DataError(f"{path}: expected an array of shape (n, 2), found ({listed(map(_size, shape))})")
        if dtype.kind not in "iuf":
            raise DataError(f"{path}: expected whole numbers, found {str(dtype)[:40]}")
        stated, there = prod(shape) * dtype.itemsize, size - file.tell()
        if stated != there:
            raise DataError(
                f"{path}: not a whole NumPy array of numbers ({there:,} bytes for {_size(shape[0])} rows)"
            )
        values = np.fromfile(file, dtype=dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def _size(length: int) -> str:
    """Format a length; a header may state a number of any size."""
    return str(length) if abs(length) < 10**12 else "far too many"
