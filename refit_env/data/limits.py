"""Limits on the sizes that a file states, checked before it is read, against decompression bombs.

A small file can state any size: a count, a table of one repeated value, a compressed run of zeros. Every
reader checks such a size here, against the size of the file, the other counts and the machine's memory.

Letters: N rows.
"""

from __future__ import annotations

import os
from pathlib import Path

from refit_env.errors import DataError

LARGEST_COUNT = 2**31 - 2
"""Most users or items: ids are int32, and the number after the last item means "no item"."""
FREE = 10_000_000
"""Users, items or values that any file may have."""
COUNT_PER_ROW = 10
"""Further users or items that a file may have, for each row."""
VALUES_PER_BYTE = 20
"""Further values that a file may have, for each of its bytes; the published files have 0.1 to 2."""
UNPACKED_PER_BYTE = 200
"""Unpacked bytes that a packed file may have, for each of its bytes; the published files have up to 20."""
LONGEST_LINE = 2**24
"""Most characters of a line of text; the longest line of the published files has 4 million."""
LARGEST_INFO = 2**24
"""Most bytes of ``dataset.json``."""
MOST_COLUMNS = 1000
"""Most columns of a table."""
WORKING_COPIES = 4
"""Copies of a table of numbers that are in memory at once while it is read, checked and sorted."""


def check_count(where: str, name: str, count: int, rows: int) -> None:
    """Raise an error for a number of users or items that is too large for the number of rows.

    Args:
        where: the file, for the message.
        name: name of the count.
        count: the stated count.
        rows: N, the actual number of rows.

    Raises:
        DataError: if the count exceeds both ten per row and ten million.
    """
    if count > min(LARGEST_COUNT, max(FREE, COUNT_PER_ROW * rows)):
        raise DataError(f"{where}: {name} is {count:,}, too many for {rows:,} rows")


def check_values(path: Path, values: int, *, size: int | None = None) -> None:
    """Raise an error for a file that states more numbers than its size or the machine's memory allows.

    Args:
        path: the file.
        values: the number of values that the file states.
        size: its size in bytes; None reads it from the file system.

    Raises:
        DataError: if there are too many values; none of them has been read.
    """
    size = path.stat().st_size if size is None else size
    most = FREE + VALUES_PER_BYTE * size
    if values > most:
        raise DataError(
            f"{path}: {size:,} bytes claim to hold {values:,} values; a file of this size may hold at most "
            f"{most:,}"
        )
    needed, there = 8 * WORKING_COPIES * values, memory()
    if there is not None and needed > there:
        raise DataError(
            f"{path}: {values:,} values need about {needed / 2**30:.0f} GiB of memory; this machine has "
            f"{there / 2**30:.0f} GiB"
        )


def check_unpacked(path: Path, unpacked: int) -> None:
    """Raise an error for a packed file whose content would be hundreds of times its size.

    Args:
        path: the file.
        unpacked: size of the content in bytes, as the file states it.

    Raises:
        DataError: if the content is too large; nothing has been unpacked.
    """
    most = 8 * FREE + UNPACKED_PER_BYTE * path.stat().st_size
    if unpacked > most:
        raise DataError(
            f"{path}: would unpack to {unpacked:,} bytes; a file of this size may unpack to at most {most:,}"
        )


def memory() -> int | None:
    """Return the machine's memory in bytes; None where the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
