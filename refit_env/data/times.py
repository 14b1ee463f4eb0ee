"""Converts numeric times to seconds; the unit is detected where it is unambiguous, else it must be stated.

Letters: N rows.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from refit_env.data.messages import spelled
from refit_env.errors import DataError

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "days": 86_400.0}
"""Unit -> seconds."""
NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds", "days": "days"}
_EARLIEST = 631_152_000.0
"""Unix time of 1990: logs are not older."""
_DETECTED = ("s", "ms", "us", "ns")
"""Units that can be detected, because their plausible ranges do not overlap; days could be any small
numbers."""


def to_seconds(
    where: str, values: npt.NDArray[np.float64], unit: str | None = None, now: float | None = None
) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """Convert times to seconds since 1970.

    Args:
        where: the file, for the message.
        values: (N,) numbers.
        unit: a key of ``UNITS``, not checked; None detects the unit in which every time is between 1990 and
            tomorrow.
        now: seconds since 1970; None reads the clock.

    Returns:
        (N,) seconds, and a note for the report if they were converted.

    Raises:
        DataError: if no unit fits; the message names the option that states it.

    Example:
        >>> to_seconds("log.csv", np.array([1.5e12, 1.6e12]))
        (array([1.5e+09, 1.6e+09]), ('times converted from milliseconds',))
    """
    if not values.size:
        return values, ()
    if unit is None:
        latest = (time.time() if now is None else now) + UNITS["days"]
        found = [u for u in _DETECTED if _plausible(values * UNITS[u], latest).all()]
        if not found:
            raise DataError(f"{where}: {_wrong(values, latest)}")
        unit = found[0]
    if unit == "s":
        return values, ()
    return values * UNITS[unit], (f"times converted from {NAMES[unit]}",)


def _plausible(seconds: npt.NDArray[np.float64], latest: float) -> npt.NDArray[np.bool_]:
    """Return (N,) whether each time is between 1990 and tomorrow."""
    return (seconds >= _EARLIEST) & (seconds <= latest)


def _wrong(values: npt.NDArray[np.float64], latest: float) -> str:
    """Return the message for times whose unit cannot be detected."""
    wrong = ~_plausible(values, latest)
    first = int(np.flatnonzero(wrong)[0])
    option = spelled("time_unit", "UNIT", "UNIT")
    return (
        f"{int(wrong.sum()):,} of {values.size:,} times, the first of them {values[first]:.15g}, are not "
        f"seconds between 1990 and today; {option} states their unit ({', '.join(UNITS)})"
        + ("" if not _calendar(values) else ". Dates as YYYYMMDD? Write them as 2011-04-03")
    )


def _calendar(values: npt.NDArray[np.float64]) -> bool:
    """Return whether all numbers read as dates without separators, such as 20110403."""
    days, months, years = values % 100, values // 100 % 100, values // 10_000
    right = (days >= 1) & (days <= 31) & (months >= 1) & (months <= 12) & (years >= 1900) & (years < 2200)
    return bool((right & (values % 1 == 0)).all())
