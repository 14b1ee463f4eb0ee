"""Delimited text, read fast where it is well formed and line by line where it is not, to name the line.

Pandas parses the whole file; only a table in which every id is a whole number >= 0 and every other value is
finite passes as it is. Anything else goes through a plain reader, which either finds the rule that a line
breaks or shows that pandas was too strict.

Letters: N rows.
"""

from __future__ import annotations

import csv
import mmap
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from refit_env.errors import DataError

Kind = Literal["id", "token", "number", "time", "skip"]
"""A whole number >= 0, any text, a finite number, seconds or an ISO date, or what is not used."""

Columns = dict[str, npt.NDArray[Any]]
"""Field name -> (N,) values: int64 ids, object tokens, float64 numbers and seconds."""

_WHOLE = re.compile(r"\+?[0-9]+")
_MAGIC = (
    (b"\x93NUMPY", "a NumPy array"),
    (b"PAR1", "a parquet file"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"Rar!", "a rar archive; unpack it first"),
)


@dataclass(frozen=True)
class Layout:
    """How the lines of a file look.

    Attributes:
        names: of the fields, in order.
        kinds: of the fields.
        separator: between fields; one character, or ``"::"``.
        header: how many lines precede the first row.
        quoted: whether fields may stand in double quotes.
        pattern: what a line should look like, for error messages.
        hint: what to do where an id is no number, for error messages.
    """

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    separator: str
    header: int = 0
    quoted: bool = False
    pattern: str = ""
    hint: str = ""

    @property
    def expected(self) -> str:
        """The pattern, or one made from the names."""
        return self.pattern or self.separator.join(self.names).replace("\t", "<tab>")


def refuse_pickle(path: Path) -> bytes:
    """The first bytes of a file; a ``DataError`` if it is not there, or a pickle, which is never read."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    with path.open("rb") as file:
        head = file.read(4096)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise DataError(
            f"{path}: this is a pickle, which can run code when it is loaded; pickles are never read"
        )
    return head


def refuse_binary(path: Path) -> None:
    """Raise a ``DataError`` for a file that is not there, is empty, or is no text."""
    head = refuse_pickle(path)
    if not head.strip():
        raise DataError(f"{path}: the file is empty")
    for magic, what in _MAGIC:
        if head.startswith(magic):
            raise DataError(f"{path}: expected text, found {what}")
    if b"\0" in head:
        raise DataError(f"{path}: expected text, found binary data")


def read_delimited(path: Path, layout: Layout) -> Columns:
    """Read a delimited file.

    Raises:
        DataError: for the first line that breaks a rule; the message names file, line and rule.
    """
    refuse_binary(path)
    columns = _read_fast(path, layout)
    return columns if columns is not None else _read_plain(path, layout)


def read_header(path: Path, separator: str) -> list[str]:
    """The fields of the first line."""
    refuse_binary(path)
    with _open(path) as file:
        try:
            line = file.readline().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} line 1: not UTF-8 text ({error.reason})") from None
    return [word.strip() for word in next(csv.reader([line], delimiter=separator), [])]


def _read_fast(path: Path, layout: Layout) -> Columns | None:
    """The columns, or None where pandas fails or any value is suspicious."""
    wide = len(layout.separator)  # '::' is read as ':' with an empty field between every two
    names: list[str] = []
    for name in layout.names:
        names += [name, *(f"{name} gap {n}" for n in range(1, wide))]
    names = [*names[: len(names) - (wide - 1)], "one field too many"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # mixed columns are refused below
            table = pd.read_csv(
                path,
                sep=layout.separator[0],
                names=names,
                header=None,
                index_col=False,
                skiprows=layout.header,
                quoting=csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE,
                keep_default_na=False,
                na_values=[""],
                encoding="utf-8-sig",
                dtype={
                    n: str for n, k in zip(layout.names, layout.kinds, strict=True) if k in ("token", "skip")
                },
            )
    except (
        ValueError,
        pd.errors.ParserWarning,
        OverflowError,
    ):  # ParserError and UnicodeDecodeError are such
        return None
    gaps = [name for name in names if name not in layout.names]
    if table.empty or table[gaps].notna().to_numpy().any() or _has_open_line(path, layout.separator):
        return None
    columns: Columns = {}
    for name, kind in zip(layout.names, layout.kinds, strict=True):
        values = _fast_column(table[name], kind)
        if values is None:
            return None
        if kind != "skip":
            columns[name] = values
    return columns


def _has_open_line(path: Path, separator: str) -> bool:
    """Whether a line ends in a separator: an empty last field, which pandas cannot tell from none."""
    mark = separator.encode()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        ends = (mark + end for end in (b"\n", b"\r"))
        return any(text.find(end) >= 0 for end in ends) or text[-len(mark) :] == mark


def _fast_column(series: pd.Series[Any], kind: Kind) -> npt.NDArray[Any] | None:
    """The column as it should be, or None."""
    if kind in ("token", "skip"):
        if kind == "token" and series.isna().any():
            return None
        return series.to_numpy(dtype=object)
    values = series.to_numpy()
    if kind == "id":
        return values if values.dtype == np.int64 and int(values.min()) >= 0 else None
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        return None
    return values.astype(np.float64)


def _read_plain(path: Path, layout: Layout) -> Columns:
    """The columns, line by line; the reader that explains what is wrong."""
    rows: list[list[Any]] = []
    for number, fields in _lines(path, layout):
        if len(fields) != len(layout.names):
            raise DataError(f"{path} line {number}: {_wrong_shape(fields, layout)}")
        row = []
        for name, kind, text in zip(layout.names, layout.kinds, fields, strict=True):
            try:
                row.append(parse_field(text, kind))
            except ValueError as error:
                hint = layout.hint if kind == "id" else ""
                raise DataError(f"{path} line {number}: {name} {error}{hint}") from None
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: no rows")
    types: dict[Kind, Any] = {"id": np.int64, "token": object, "number": np.float64, "time": np.float64}
    return {
        name: np.array([row[n] for row in rows], dtype=types[kind])
        for n, (name, kind) in enumerate(zip(layout.names, layout.kinds, strict=True))
        if kind != "skip"
    }


def parse_field(text: str, kind: Kind) -> Any:
    """Read one field.

    Raises:
        ValueError: with the rule that it breaks, to stand behind the field's name.

    Example:
        >>> parse_field("12", "id"), parse_field("4.5", "number")
        (12, 4.5)
    """
    text = text.strip()
    if kind == "skip":
        return None
    if kind == "token":
        if not text:
            raise ValueError("is empty")
        return text
    if kind == "id":
        if not _WHOLE.fullmatch(text):
            what = "is negative" if re.fullmatch(r"-[0-9]+", text) else "is no whole number"
            raise ValueError(f"{text[:40]!r} {what}; ids are whole numbers >= 0")
        if int(text) >= 2**63:
            raise ValueError(f"{text[:40]!r} does not fit 64 bits")
        return int(text)
    try:
        value = float(text)
    except ValueError:
        seconds = _iso_seconds(text) if kind == "time" else None
        if seconds is None:
            raise ValueError(f"{text[:40]!r} is no {'time' if kind == 'time' else 'number'}") from None
        value = seconds
    if not np.isfinite(value):
        raise ValueError(f"{text[:40]!r} is not finite")
    return value


def _iso_seconds(text: str) -> float | None:
    """Seconds of a date such as 2014-04-07T10:51:09.277Z, or None; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _lines(path: Path, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Line number (from 1) and fields of every line that is not blank."""
    number = 0
    try:
        with _open(path) as file:
            if layout.quoted:
                reader = csv.reader(file, delimiter=layout.separator, strict=True)
                numbered = ((reader.line_num, fields) for fields in reader)
            else:
                numbered = (
                    (n, line.rstrip("\r\n").split(layout.separator)) for n, line in enumerate(file, start=1)
                )
            for number, fields in numbered:
                if number > layout.header and fields and (len(fields) > 1 or fields[0].strip()):
                    yield number, fields
    except UnicodeDecodeError as error:
        raise DataError(f"{path} after line {number}: not UTF-8 text ({error.reason})") from None
    except csv.Error as error:
        raise DataError(f"{path} line {number + 1}: {error}") from None


def _open(path: Path) -> Any:
    return path.open(encoding="utf-8-sig", newline="")


def _wrong_shape(fields: Sequence[str], layout: Layout) -> str:
    """Say how a line differs from the layout, and what it may be."""
    line = layout.separator.join(fields)
    found = f"expected {layout.expected!r} ({len(layout.names)} fields), found {line[:60]!r} ({len(fields)})"
    others = [s for s in ("::", "\t", ",", ";", "|", " ") if s != layout.separator]
    likely = [s for s in others if len(line.split(s)) == len(layout.names)]
    if likely:
        names = {"\t": "tabs", " ": "spaces"}
        return f"{found}. Separated by {names.get(likely[0], repr(likely[0]))}? Choose another format"
    return f"{found}. Is the file truncated?" if len(fields) < len(layout.names) else found
