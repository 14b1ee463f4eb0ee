"""Parses one field of a text file by its kind.

Letters: N rows.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from refit_env.data.ids import NUMBER, parse_id

Kind = Literal["id", "token", "count", "number", "optional", "date", "skip"]
"""Kinds of fields: ``id``, digits (text if it has leading zeros); ``token``, any text; ``count``, a whole
number >= 0; ``number``, a finite number; ``optional``, a finite number or empty (NaN); ``date``, an ISO date
or ``Tue Apr 03 18:00:09 +0000 2012``, in seconds; ``skip``, not used."""

_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,5})?")
"""A decimal number; other text that ``float`` accepts, such as ``1_000`` or ``nan``, does not match."""

_ISO = r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{3}|\.[0-9]{6})?Z?)?"
_DAYS = "Mon|Tue|Wed|Thu|Fri|Sat|Sun"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_STAMP = rf"(?:{_DAYS}) ({'|'.join(_MONTHS)}) ([0-9]{{2}}) ([0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}) %s ([0-9]{{4}})"
_STAMP_UTC, _STAMP_ANY = _STAMP % r"\+0000", re.compile(_STAMP % "([+-])([0-9]{2})([0-9]{2})")
MISSING = (
    "",
    "null",
    "nan",
    "nat",
    "none",
    "na",
    "n/a",
    "#n/a",
    "nil",
    "undefined",
    "unknown",
    "<na>",
    "\\n",
)
"""Texts that may mean a missing value, in lower case."""


def parse_field(text: str, kind: Kind) -> Any:
    """Parse one field.

    Raises:
        ValueError: with the rule that it breaks, as a message that follows the field's name.

    Example:
        >>> parse_field("12", "id"), parse_field("012", "id"), parse_field("4.5", "number")
        (12, '012', 4.5)
        >>> parse_field("Tue Apr 03 18:00:09 +0000 2012", "date")
        1333476009.0
    """
    text = text.strip()
    if kind == "skip":
        return None
    if kind == "token":
        if not text:
            raise ValueError("is empty")
        return text
    if kind in ("id", "count"):
        if not text:
            raise ValueError("is empty")
        found = parse_id(text)
        return found if kind == "id" else int(found)
    if kind == "optional" and not text:
        return float("nan")
    if not text:
        raise ValueError("is empty")
    if kind == "date":
        seconds = seconds_of(text)
        if seconds is None:
            raise ValueError(f"{text[:40]!r} is not a date{_expected_date(text)}")
        return seconds
    if not _NUMBER.fullmatch(text) and seconds_of(text) is not None:
        raise ValueError(f"{text[:40]!r} is a date, not a number: all rows of a column need the same kind")
    return parse_number(text)


def _expected_date(text: str) -> str:
    """Return the end of the message for an invalid date: the valid forms."""
    if re.match(r"[0-9]{1,2}([/.-])[0-9]{1,2}\1[0-9]{2,4}", text):
        return ": day and month are ambiguous; write the year first, as in 2011-04-03"
    return "; write it as 2011-04-03, 2011-04-03 18:00:09 or 2011-04-03T18:00:09+02:00"


def parse_number(text: str) -> float:
    """Parse a decimal number; all readers use this function.

    Raises:
        ValueError: with the rule that it breaks.

    Example:
        >>> parse_number("4.5"), parse_number("-1e3")
        (4.5, -1000.0)
    """
    if not _NUMBER.fullmatch(text):
        missing = "; a missing value is an empty field" if text.strip().lower() in MISSING else ""
        raise ValueError(f"{text[:40]!r} is not a number{missing}")
    value = float(text)
    if not np.isfinite(value):
        raise ValueError(f"{text[:40]!r} is too large")
    return value


def seconds_of(text: str) -> float | None:
    """Return Unix time of a date such as 2014-04-07T10:51:09.277Z, or None; the default zone is UTC."""
    stamp = _STAMP_ANY.fullmatch(text)
    try:
        if stamp:
            month, day, clock, sign, hours, minutes, year = stamp.groups()
            zone = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1)
            text = f"{year}-{_MONTHS.index(month) + 1:02d}-{day}T{clock}"
            return (datetime.fromisoformat(text) - zone).replace(tzinfo=UTC).timestamp()
        moment = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
    except (ValueError, OverflowError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def fast_column(series: pd.Series[Any], kind: Kind) -> npt.NDArray[Any] | None:
    """Return the values (N,) of a column that pandas parsed; None if any needs the slower reader."""
    if kind == "token":
        text = series.str.strip()
        return None if text.isna().any() or text.eq("").any() else text.to_numpy(dtype=object)
    if kind == "id" and series.dtype.kind not in "iuf":
        return id_values(series)
    values = series.to_numpy()
    if kind in ("id", "count"):
        return values if values.dtype == np.int64 and int(values.min()) >= 0 else None
    if kind == "optional" and values.dtype.kind in "iuf":
        return None if np.isinf(values).any() else values.astype(np.float64)
    if kind == "date":
        return _fast_dates(series)
    return values.astype(np.float64) if values.dtype.kind in "iuf" and np.isfinite(values).all() else None


def id_values(series: pd.Series[Any]) -> npt.NDArray[Any] | None:
    """Parse a column of text as ids (N,): int64, or text if one has leading zeros; None if one is not an id.

    Raises:
        OverflowError: if one does not fit 64 bits.

    Example:
        >>> id_values(pd.Series(["7", "12"])), id_values(pd.Series(["7", "007"]))
        (array([ 7, 12]), array(['7', '007'], dtype=object))
    """
    if not pd.api.types.is_string_dtype(series):
        return None
    text = series.str.strip()
    if not text.str.fullmatch("[0-9]+").eq(True).all():
        return None
    if not text.str.fullmatch(NUMBER).eq(True).all():
        return text.to_numpy(dtype=object)
    return text.to_numpy(dtype=object).astype(np.int64)


def _fast_dates(series: pd.Series[Any]) -> npt.NDArray[np.float64] | None:
    """Return the seconds (N,) of a column of dates if all have one of the two usual forms, else None."""
    if not pd.api.types.is_string_dtype(series.dtype):
        return None
    if series.str.fullmatch(_STAMP_UTC).eq(True).all():  # sliced, because a date parser depends on the locale
        month = series.str[4:7].map({name: f"{n:02d}" for n, name in enumerate(_MONTHS, start=1)})
        series = series.str[26:30] + "-" + month + "-" + series.str[8:10] + "T" + series.str[11:19]
    elif not series.str.fullmatch(_ISO).eq(True).all():
        return None
    times = pd.to_datetime(series, format="ISO8601", utc=True, errors="coerce")
    if times.isna().any():
        return None
    return times.dt.as_unit("us").astype(np.int64).to_numpy() / 1e6  # whole microseconds are exact
