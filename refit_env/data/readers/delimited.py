"""Reads delimited text: fast with pandas if it is well formed, else line by line, to name the faulty line.

Pandas parses the file in chunks of a million rows, so that memory holds only the columns that are used. Its
result is accepted if every id consists of digits and every other value is finite. If a field begins with a
zero before a digit, ids are parsed as text, which keeps the zero. Any other file is read by a slower reader,
which either finds the rule that a line breaks, or accepts the file.

Letters: N rows.
"""

from __future__ import annotations

import codecs
import csv
import mmap
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from refit_env.data.ids import id_column, join_ids
from refit_env.data.limits import LONGEST_LINE, MOST_COLUMNS
from refit_env.data.readers.field_parsing import Kind, fast_column, parse_field
from refit_env.errors import DataError

CHUNK = 1_000_000
"""Rows of a chunk; its unused columns are dropped before the next chunk is read."""

Columns = dict[str, npt.NDArray[Any]]
"""Field name -> (N,) values: ids as in ``refit_env.data.ids``, object tokens, int64 counts, float64 numbers
and seconds."""

_EXACT: dict[str, Any] = (
    {"float_precision": "round_trip"} if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1) else {}
)
"""Options of pandas with which decimals are read to the last bit; versions from 3.1 on always do so."""
_MAGIC = (
    (b"\x93NUMPY", "a NumPy array"),
    (b"PAR1", "a parquet file"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"Rar!", "a rar archive; unpack it first"),
)


@dataclass(frozen=True)
class Layout:
    """The format of the lines of a file.

    Attributes:
        names: names of the fields, in order.
        kinds: kinds of the fields.
        separator: separator of the fields; one character, or ``"::"``.
        header: number of lines before the first row.
        quoted: whether fields may be in double quotes.
        pattern: the expected line, for error messages.
        hint: advice for an id that is not a number, for error messages.
        blank: advice for an empty field that is used, for error messages.
        date_hint: advice for a date that cannot be read, for error messages.
        drop_blank: whether rows with an empty field that is used are dropped.
        encoding: encoding of the text; UTF-8 if the file begins with its byte order mark.
    """

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    separator: str
    header: int = 0
    quoted: bool = False
    pattern: str = ""
    hint: str = ""
    blank: str = ""
    date_hint: str = ""
    drop_blank: bool = False
    encoding: str = "utf-8-sig"

    @property
    def expected(self) -> str:
        """The pattern, or one made from the names."""
        pattern = self.pattern or self.separator.join(self.names)
        return (pattern if len(pattern) <= 120 else f"{pattern[:120]}...").replace("\t", "<tab>")


def refuse_pickle(path: Path) -> bytes:
    """Return the first bytes of a file; raise a ``DataError`` if it is missing or a pickle."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    with path.open("rb") as file:
        head = file.read(4096)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise DataError(
            f"{path}: this is a pickle, which can run code when it is loaded; only the formats recdiff and "
            "dreamrec may be pickles, and their code is not run"
        )
    return head


def refuse_binary(path: Path) -> None:
    """Raise a ``DataError`` for a file that is missing, empty, or not text."""
    head = refuse_pickle(path)
    if not head.strip():
        raise DataError(f"{path}: the file is empty")
    for magic, what in _MAGIC:
        if head.startswith(magic):
            raise DataError(f"{path}: expected text, found {what}")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}: UTF-16 text; save the file as UTF-8")
    if b"\0" in head:
        raise DataError(f"{path}: expected text, found binary data")


def read_delimited(path: Path, layout: Layout) -> Columns:
    """Read a delimited file.

    Raises:
        DataError: for the first line that breaks a rule; the message names file, line and rule.
    """
    return read_counting(path, layout)[0]


def read_counting(path: Path, layout: Layout) -> tuple[Columns, int]:
    """Read a delimited file, and count the rows that ``layout.drop_blank`` dropped.

    Raises:
        DataError: for the first line that breaks a rule; the message names file, line and rule.
    """
    refuse_binary(path)
    columns = _read_fast(path, layout)
    return (columns, 0) if columns is not None else _read_plain(path, layout)


def first_value(path: Path, layout: Layout, name: str) -> str:
    """Return the first value of a column that is not blank; an empty string if there is none."""
    place = layout.names.index(name)
    values = (fields[place].strip() for _, fields in _lines(path, layout) if place < len(fields))
    return next((value for value in values if value), "")


def line_of(path: Path, layout: Layout, row: int) -> int:
    """Return the number (from 1) of the line that holds a row (from 0); blank and dropped lines are not."""
    kept = (
        n for n, fields in _lines(path, layout) if not layout.drop_blank or not _has_blank(fields, layout)
    )
    return next(islice(kept, row, None))


def read_header(path: Path, separator: str) -> list[str]:
    """Read the fields of the first line."""
    refuse_binary(path)
    line = next(text_lines(path))[1]
    try:
        words = next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error as error:
        raise DataError(f"{path} line 1: {error}") from None
    if len(words) > MOST_COLUMNS:
        raise DataError(f"{path} line 1: {len(words)} columns; at most {MOST_COLUMNS} are read")
    return [word.strip() for word in words]


def text_lines(path: Path, encoding: str = "utf-8-sig") -> Iterator[tuple[int, str]]:
    """Yield line number (from 1) and text of every line, without the line end.

    Raises:
        DataError: for a line that is not text of the encoding, or longer than any in a published file.
    """
    number = 0
    try:
        with _open(path, encoding) as file:
            while line := file.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    raise DataError(f"{path} line {number}: longer than {LONGEST_LINE:,} characters")
                yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise _undecodable(path, error) from None


def _undecodable(path: Path, error: UnicodeDecodeError) -> DataError:
    """Return the error for a file that is not text of its encoding; it names the first such line."""
    number = 0  # decoders read ahead: the error itself does not state the line
    with path.open("rb") as file:
        for line in iter(lambda: file.readline(4 * LONGEST_LINE), b""):
            number += 1
            try:
                line.decode(error.encoding)
            except UnicodeDecodeError as wrong:
                where = f"{path} line {number}, byte {wrong.start + 1}"
                return DataError(f"{where}: not {error.encoding.upper()} text; save the file as UTF-8")
    return DataError(f"{path}: not {error.encoding.upper()} text ({error.reason}); save the file as UTF-8")


def _read_fast(path: Path, layout: Layout) -> Columns | None:
    """Read the columns with pandas; None if pandas fails or any value needs the slower reader."""
    wide = len(layout.separator)  # '::' is read as ':' with an empty field between every two fields
    names: list[str] = []
    for name in layout.names:
        names += [name, *(f"{name} gap {n}" for n in range(1, wide))]
    names = [*names[: len(names) - (wide - 1)], "one field too many"]
    if _has_open_line(path, layout.separator):
        return None
    parts: list[Columns] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # mixed columns are refused below
            for table in _chunks(path, layout, names):
                columns = _fast_columns(table, layout)
                if columns is None:
                    return None
                parts.append(columns)
    except (ValueError, pd.errors.ParserWarning, OverflowError):  # includes ParserError, UnicodeDecodeError
        return None
    return _joined(parts) if parts else None


def _chunks(path: Path, layout: Layout, names: list[str]) -> Iterator[pd.DataFrame]:
    """Yield the file as tables of text and numbers."""
    as_text = {"token", "skip"} | ({"id"} if _has_leading_zero(path, layout.separator) else set())
    # pandas infers the types of all other columns
    text = {n: str for n, k in zip(layout.names, layout.kinds, strict=True) if k in as_text}
    with pd.read_csv(
        path,
        sep=layout.separator[0],
        names=names,
        header=None,
        index_col=False,
        skiprows=layout.header,
        quoting=csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE,
        keep_default_na=False,
        na_values=[""],
        encoding=_encoding(path, layout.encoding),
        dtype=text,
        chunksize=CHUNK,
        **_EXACT,
    ) as tables:
        yield from tables


def _fast_columns(table: pd.DataFrame, layout: Layout) -> Columns | None:
    """Return the columns of one chunk; None if any value needs the slower reader."""
    gaps = [name for name in table.columns if name not in layout.names]
    if table.empty or table[gaps].notna().to_numpy().any() or table[layout.names[-1]].isna().any():
        return None  # no line ends in a separator, so a missing last value is a missing field
    columns: Columns = {}
    for name, kind in zip(layout.names, layout.kinds, strict=True):
        if kind == "skip":
            continue
        values = fast_column(table[name], kind)
        if values is None:
            return None
        columns[name] = values
    return columns


def _joined(parts: list[Columns]) -> Columns:
    """Concatenate the chunks' columns, and free each one as soon as it is copied."""
    return {name: join_ids([part.pop(name) for part in parts]) for name in list(parts[0])}


def _has_leading_zero(path: Path, separator: str) -> bool:
    """Return whether any field may be a number that begins with a plus or a zero, which pandas would drop."""
    mark = re.escape(separator[-1].encode())
    pattern = rb"(?:[%s\s\"]|\A(?:\xef\xbb\xbf)?)(?:0|\+)[0-9]" % mark
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return re.search(pattern, text) is not None


def _has_open_line(path: Path, separator: str) -> bool:
    """Return whether a line ends in a separator: pandas reads an empty last field as a missing one."""
    mark = separator.encode()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        ends = (mark + end for end in (b"\n", b"\r"))
        return any(text.find(end) >= 0 for end in ends) or text[-len(mark) :] == mark


def _read_plain(path: Path, layout: Layout) -> tuple[Columns, int]:
    """Read the columns line by line, and count the dropped rows; errors name the line and the rule."""
    parts: list[Columns] = []
    rows: list[list[Any]] = []
    dropped = 0
    for number, fields in _lines(path, layout):
        if len(fields) != len(layout.names):
            raise DataError(f"{path} line {number}: {_wrong_shape(fields, layout)}")
        if layout.drop_blank and _has_blank(fields, layout):
            dropped += 1
            continue
        row = []
        for name, kind, text in zip(layout.names, layout.kinds, fields, strict=True):
            try:
                row.append(parse_field(text, kind))
            except ValueError as error:
                hints = {"id": layout.hint, "date": layout.date_hint}
                hint = hints.get(kind, "") if text.strip() else layout.blank
                raise DataError(f"{path} line {number}: {name} {error}{hint}") from None
        rows.append(row)
        if len(rows) == CHUNK:
            parts, rows = [*parts, _plain_columns(rows, layout)], []
    if not rows and not parts:
        raise DataError(f"{path}: no rows" + (f" without blanks, of {dropped:,}" if dropped else ""))
    return _joined([*parts, _plain_columns(rows, layout)] if rows else parts), dropped


def _has_blank(fields: Sequence[str], layout: Layout) -> bool:
    """Return whether a field that is used and must not be empty is empty."""
    both = zip(fields, layout.kinds, strict=True)
    return any(kind not in ("skip", "optional") and not text.strip() for text, kind in both)


def _plain_columns(rows: list[list[Any]], layout: Layout) -> Columns:
    """Return the columns of parsed rows."""
    types: dict[Kind, Any] = {"count": np.int64, "token": object}
    columns: Columns = {}
    for n, (name, kind) in enumerate(zip(layout.names, layout.kinds, strict=True)):
        values = [row[n] for row in rows]
        if kind == "id":
            columns[name] = id_column(values)
        elif kind != "skip":
            columns[name] = np.array(values, dtype=types.get(kind, np.float64))
    return columns


def _lines(path: Path, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield line number (from 1) and fields of every line that is not blank."""
    number = 0
    try:
        with _open(path, layout.encoding) as file:
            if layout.quoted:
                reader = csv.reader(file, delimiter=layout.separator, strict=True)
                numbered = ((reader.line_num, fields) for fields in reader)
            else:
                numbered = (
                    (n, line.split(layout.separator)) for n, line in text_lines(path, layout.encoding)
                )
            for number, fields in numbered:
                if number > layout.header and fields and (len(fields) > 1 or fields[0].strip()):
                    yield number, fields
    except UnicodeDecodeError as error:
        raise _undecodable(path, error) from None
    except csv.Error as error:
        raise DataError(f"{path} line {number + 1}: {error}") from None


def _open(path: Path, encoding: str) -> Any:
    return path.open(encoding=_encoding(path, encoding), newline="")


def _encoding(path: Path, encoding: str) -> str:
    """Return the layout's encoding, or UTF-8 if the file begins with its byte order mark."""
    with path.open("rb") as file:
        return "utf-8-sig" if file.read(3) == codecs.BOM_UTF8 else encoding


def _wrong_shape(fields: Sequence[str], layout: Layout) -> str:
    """Return the message for a line with the wrong number of fields, with a guess at the cause."""
    line = layout.separator.join(fields)
    found = f"expected {layout.expected!r} ({len(layout.names)} fields), found {line[:60]!r} ({len(fields)})"
    others = [s for s in ("::", "\t", ",", ";", "|", " ") if s != layout.separator]
    likely = [s for s in others if len(line.split(s)) == len(layout.names)]
    if likely:
        names = {"\t": "tabs", " ": "spaces"}
        return f"{found}. Separated by {names.get(likely[0], repr(likely[0]))}? Choose another format"
    return f"{found}. Is the file truncated?" if len(fields) < len(layout.names) else found
