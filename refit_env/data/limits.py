"""How large what a file claims may be, checked before it is read: generous for data, too small for a bomb.

A file of few bytes can claim any size: a count, a table of one repeated value, a compressed run of zeros.
Every reader checks such a claim here, against the file's own size, the other counts and the machine's memory.

Letters: N rows.
"""

from __future__ import annotations

import os
from pathlib import Path

from refit_env.errors import DataError

LARGEST_COUNT = 2**31 - 2
"""Users or items: ids are int32, and the number after the last item's stands for none."""
FREE = 10_000_000
"""Users, items or values that are accepted of any file."""
COUNT_PER_ROW = 10
"""Users or items that are accepted beyond, for each row."""
VALUES_PER_BYTE = 20
"""Values that are accepted beyond, for each byte of the file; the published files have 0.1 to 2."""
UNPACKED_PER_BYTE = 200
"""Bytes that a byte of a packed file may become; the published files have up to 20."""
LONGEST_LINE = 2**24
"""Characters of a line of text that is no table; the longest of the published files has 4 million."""
LARGEST_INFO = 2**24
"""Bytes of ``dataset.json``."""
MOST_COLUMNS = 1000
"""Of a table."""
WORKING_COPIES = 4
"""How often a table of numbers is in memory at once while it is read, checked and sorted."""


def check_count(where: str, name: str, count: int, rows: int) -> None:
    """Refuse a number of users or items that so few rows cannot have.

    Args:
        where: the file, for the message.
        name: of the count.
        count: as stated.
        rows: N that are there.

    Raises:
        DataError: if it is larger than ten for each row, and than ten million.
    """
    if count > min(LARGEST_COUNT, max(FREE, COUNT_PER_ROW * rows)):
        raise DataError(f"{where}: {name} is {count:,}, too many for {rows:,} rows")


def check_values(path: Path, values: int, *, size: int | None = None) -> None:
    """Refuse a file that claims to hold more numbers than its size, or the machine's memory, allows.

    Args:
        path: the file.
        values: how many it claims to hold.
        size: its bytes; None asks the system.

    Raises:
        DataError: before anything is read.
    """
    size = path.stat().st_size if size is None else size
    most = FREE + VALUES_PER_BYTE * size
    if values > most:
        raise DataError(
            f"{path}: {size:,} bytes claim to hold {values:,} values; at most {most:,} are read of so few"
        )
    needed, there = 8 * WORKING_COPIES * values, memory()
    if there is not None and needed > there:
        raise DataError(
            f"{path}: {values:,} values take about {needed / 2**30:.0f} GiB to read; this machine has "
            f"{there / 2**30:.0f} GiB"
        )


def check_unpacked(path: Path, unpacked: int) -> None:
    """Refuse a packed file whose content would be hundreds of times its size.

    Args:
        path: the file.
        unpacked: bytes that it states for its content.

    Raises:
        DataError: before anything is unpacked.
    """
    most = 8 * FREE + UNPACKED_PER_BYTE * path.stat().st_size
    if unpacked > most:
        raise DataError(f"{path}: would unpack to {unpacked:,} bytes; at most {most:,} are, from such a file")


def memory() -> int | None:
    """Bytes of the machine's memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
