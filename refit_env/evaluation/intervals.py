"""Ends of confidence intervals: as text, and on which side of zero they are.

An interval that is not known (of a single user or seed) has infinite ends; in JSON they are null.
"""

from __future__ import annotations

import math

UNKNOWN = "-"
"""Text of an interval that is not known."""


def is_known(low: float | None, high: float | None) -> bool:
    """Return whether an interval has both ends.

    Example:
        >>> is_known(-0.1, 0.2), is_known(None, None), is_known(float("-inf"), float("inf"))
        (True, False, False)
    """
    return low is not None and high is not None and math.isfinite(low) and math.isfinite(high)


def ends_in_words(low: float | None, high: float | None, between: str = " to ", digits: int = 4) -> str:
    """Format the ends of an interval with their signs; ``-`` if it is not known.

    Example:
        >>> ends_in_words(-0.1, 0.2), ends_in_words(-0.1, 0.2, ", ", digits=2), ends_in_words(None, None)
        ('-0.1000 to +0.2000', '-0.10, +0.20', '-')
    """
    if not is_known(low, high):
        return UNKNOWN
    return f"{low:+.{digits}f}{between}{high:+.{digits}f}"


def side_of_zero(low: float | None, high: float | None) -> int:
    """Return 1 for an interval above zero, -1 for one below, 0 for one that contains zero or is not known.

    Example:
        >>> [side_of_zero(*ends) for ends in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1), (None, None))]
        [1, -1, 0, 0]
    """
    if low is None or high is None or not is_known(low, high):
        return 0
    return int(low > 0) - int(high < 0)
