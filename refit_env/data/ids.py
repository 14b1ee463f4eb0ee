"""Ids as the source writes them: numbers where all of them are written as numbers are, else text.

Letters: N values, n ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

NUMBER = r"(?:0|[1-9][0-9]*)"
"""A whole number as numbers are written; ``007`` and ``+7`` are not, and a number would lose it."""

_DIGITS = re.compile("[0-9]+")
_NUMBER = re.compile(NUMBER)


def parse_id(text: str) -> int | str:
    """Read one id of digits.

    Returns:
        The number; the text itself where it has leading zeros, which a number would lose.

    Raises:
        ValueError: for anything but digits, or more than 64 bits hold.

    Example:
        >>> parse_id("108"), parse_id("0108")
        (108, '0108')
    """
    if not _DIGITS.fullmatch(text):
        what = "is negative" if re.fullmatch(r"-[0-9]+", text) else "is no whole number"
        raise ValueError(f"{text[:40]!r} {what}; ids are whole numbers >= 0")
    if not _NUMBER.fullmatch(text):
        return text
    if len(text) > 19 or int(text) >= 2**63:
        raise ValueError(f"{text[:40]!r} does not fit 64 bits")
    return int(text)


def id_column(ids: Sequence[int | str]) -> npt.NDArray[Any]:
    """(N,) the ids as one column: int64, or objects that are all text as soon as one of them is.

    Example:
        >>> id_column([7, 12]), id_column([7, "007"])
        (array([ 7, 12]), array(['7', '007'], dtype=object))
    """
    if any(isinstance(value, str) for value in ids):
        return np.array([str(value) for value in ids], dtype=object)
    return np.array(ids, dtype=np.int64)


def join_ids(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """(N,) columns of ids end to end; numbers become text where another part has text.

    Numbers are kept only where they are written as numbers are, so that their text is the source's again.

    Example:
        >>> join_ids([np.array([7, 12]), np.array(["007"], dtype=object)])
        array(['7', '12', '007'], dtype=object)
    """
    if any(part.dtype == object for part in parts):
        parts = [part if part.dtype == object else part.astype(str).astype(object) for part in parts]
    return np.concatenate(parts)
