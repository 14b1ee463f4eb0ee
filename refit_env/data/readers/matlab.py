"""Reads one matrix of a MATLAB file (level 4 and level 5, versions 4 to 7) by its name.

SciPy's reader crashes the process on damaged sizes. This one reads only full matrices of real numbers, and
compares each stated size with the size of the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from refit_env.data.limits import check_values
from refit_env.data.messages import listed
from refit_env.data.readers.delimited import refuse_pickle
from refit_env.errors import DataError
from refit_env.utils.text import shown

_HEADER = 2**16
"""Unpacked bytes of a variable that must contain its name and shape."""
_COMPRESSED, _MATRIX = 15, 14
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Type of stored numbers in level 5 -> NumPy's type."""
_OLD_TYPES = ("f8", "f4", "i4", "i2", "u2", "u1")
"""NumPy's types by their number in level 4."""
_SPARSE, _NUMBERS = 5, range(6, 16)
"""Classes of level 5."""


class _Damaged(Exception):
    """A size or a type that no MATLAB file has."""


@dataclass(frozen=True)
class _Variable:
    """A variable whose numbers have not been read yet.

    Attributes:
        name: its name.
        shape: its stated shape.
        kind: ``"numbers"``, ``"sparse"`` or ``"other"``.
        order: byte order, ``"<"`` or ``">"``.
        content: the bytes of the variable.
        packed: whether the bytes are compressed.
        start: position of the numbers in the unpacked bytes.
        dtype: NumPy's type of the numbers in level 4; empty in level 5, where a tag states it.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    order: str
    content: memoryview
    packed: bool
    start: int
    dtype: str = ""


def read_matrix(path: Path, names: Sequence[str]) -> tuple[str, npt.NDArray[np.float64]]:
    """Read the variable that has one of the names, or the only variable.

    Args:
        path: the file.
        names: the usual names of the variable.

    Returns:
        The variable's name, and its numbers as doubles, in two or more dimensions.

    Raises:
        DataError: if it is not a MATLAB file, has no such variable, states more numbers than a file of its
            size can hold, or the variable is not a full matrix of real numbers.
    """
    refuse_pickle(path)
    content = memoryview(path.read_bytes())
    if bytes(content[124:128]) in (b"\x00\x02IM", b"\x02\x00MI"):
        raise DataError(f"{path}: a MATLAB 7.3 (HDF5) file; save it again with -v7")
    try:
        held = list(_variables(content))
    except (_Damaged, zlib.error) as error:
        raise DataError(f"{path}: not a whole MATLAB file ({error})") from None
    chosen = [v for name in names for v in held if v.name == name] or held[: 2 - len(held)]
    if not chosen:
        holds = listed(v.name for v in held) or "none at all"
        raise DataError(f"{path}: no variable {names[0]!r}; the file holds {holds}")
    variable = chosen[0]
    if variable.kind != "numbers":
        what = "a sparse matrix" if variable.kind == "sparse" else "not a matrix of numbers"
        raise DataError(f"{path}: {shown(variable.name)} is {what}, expected a full one of numbers")
    check_values(path, prod(variable.shape))
    try:
        return variable.name, _numbers(variable)
    except (_Damaged, zlib.error) as error:
        raise DataError(f"{path}: not a whole MATLAB file ({error})") from None


def _unpacked(form: str, content: memoryview, place: int = 0) -> tuple[int, ...]:
    """Unpack whole numbers at a position."""
    if place + struct.calcsize(form) > len(content):
        raise _Damaged("the end is missing")
    return struct.unpack_from(form, content, place)


def _variables(content: memoryview) -> Iterator[_Variable]:
    """Yield the variables of a file of either level."""
    mark = bytes(content[126:128])
    if mark in (b"IM", b"MI"):
        yield from _new_variables(content, "<" if mark == b"IM" else ">")
    elif len(content) >= 20 and 0 in bytes(content[:4]):
        yield from _old_variables(content)
    else:
        raise _Damaged("no header of MATLAB's")


def _old_variables(content: memoryview) -> Iterator[_Variable]:
    """Yield the variables of a level 4 file: each is five numbers, the name and the numbers."""
    place = 0
    order = "<" if _unpacked("<i", content)[0] in range(1000) else ">"
    while place < len(content):
        kind, rows, columns, imaginary, length = _unpacked(f"{order}5i", content, place)
        machine, rest = divmod(kind, 1000)
        number, layout = divmod(rest, 10)
        if machine not in (0, 1) or number >= len(_OLD_TYPES) or layout > 2 or min(rows, columns, length) < 0:
            raise _Damaged("no variable where one should begin")
        dtype, start = f"{order}{_OLD_TYPES[number]}", place + 20 + length
        end = start + rows * columns * np.dtype(dtype).itemsize * (2 if imaginary else 1)
        if end > len(content):
            raise _Damaged("the end is missing")
        name = bytes(content[place + 20 : start]).split(b"\0")[0].decode("latin-1")
        what = "other" if imaginary or layout == 1 else ("numbers", "", "sparse")[layout]
        yield _Variable(name, (rows, columns), what, order, content[start:end], False, 0, dtype)
        place = end


def _new_variables(content: memoryview, order: str) -> Iterator[_Variable]:
    """Yield the variables of a level 5 file: elements after the header, each packed or not."""
    place = 128
    while place < len(content):
        kind, size, start = _tag(content, place, order)
        end = start + size
        if end > len(content):
            raise _Damaged("the end is missing")
        packed = kind == _COMPRESSED
        whole = content[start:end]
        head = memoryview(zlib.decompressobj().decompress(whole, _HEADER)) if packed else whole
        if packed:
            kind, _, first = _tag(head, 0, order)
            head = head[first:]
        if kind == _MATRIX and size:
            yield _variable(head, whole, packed, order)
        place = end if packed else end + -size % 8


def _variable(head: memoryview, whole: memoryview, packed: bool, order: str) -> _Variable:
    """Parse the elements before a variable's numbers: flags, shape and name."""
    parts: list[memoryview] = []
    place = 0
    for _ in range(3):
        _, size, start = _tag(head, place, order)
        if start + size > len(head):
            raise _Damaged("a truncated name or shape")
        parts.append(head[start : start + size])
        small = start - place == 4
        place = place + 8 if small else start + size + -size % 8
    flags = _unpacked(f"{order}I", parts[0])[0]
    shape = struct.unpack(f"{order}{len(parts[1]) // 4}i", parts[1][: len(parts[1]) // 4 * 4])
    if len(shape) < 2 or len(shape) > 32 or min(shape) < 0:
        raise _Damaged("a variable without a shape")
    real = flags & 0xFF in _NUMBERS and not flags & 0x800  # the flag of complex numbers
    what = "numbers" if real else "sparse" if flags & 0xFF == _SPARSE else "other"
    start = place + (8 if packed else 0)
    return _Variable(bytes(parts[2]).decode("latin-1"), shape, what, order, whole, packed, start)


def _tag(content: memoryview, place: int, order: str) -> tuple[int, int, int]:
    """Return type, size and position of an element's data; a small element's data are in the tag."""
    (first,) = _unpacked(f"{order}I", content, place)
    if first >> 16:
        return first & 0xFFFF, min(first >> 16, 4), place + 4
    (size,) = _unpacked(f"{order}I", content, place + 4)
    return first, size, place + 8


def _numbers(variable: _Variable) -> npt.NDArray[np.float64]:
    """Read the numbers of a variable, in its shape."""
    count = prod(variable.shape)
    content = variable.content
    if variable.packed:
        most = variable.start + 16 + 8 * count  # no type is longer
        content = memoryview(zlib.decompressobj().decompress(content, most))
    dtype, size, start = np.dtype("f8"), len(content), 0
    if variable.dtype:
        dtype = np.dtype(variable.dtype)
    else:
        kind, size, start = _tag(content, variable.start, variable.order)
        if kind not in _TYPES:
            raise _Damaged("numbers of no known type")
        dtype = np.dtype(f"{variable.order}{_TYPES[kind]}")
    if size != count * dtype.itemsize or start + size > len(content):
        raise _Damaged("fewer or more numbers than the shape states")
    values = np.frombuffer(content[start : start + size], dtype=dtype)
    return values.astype(np.float64).reshape(variable.shape, order="F")
