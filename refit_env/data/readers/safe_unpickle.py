"""Read the data of a pickle without running any of it.

A pickle is a program: it names functions of installed packages and calls them. Here the few names that the
published files use stand for inert stand-ins, which only remember what they were given; arrays are put
together from their bytes. A name outside the list below ends the reading before anything is called. No code
of SciPy or pandas is run on the file's behalf, so the versions that wrote and read it need not agree.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from refit_env.data.messages import reason
from refit_env.data.readers.opcodes import Machine
from refit_env.errors import DataError
from refit_env.utils.text import shown

_PLAIN_TYPE = re.compile("[biuf][1248]")


class Inert:
    """What stands for an object of a pickle.

    Attributes:
        args: what its class was called with.
        state: what it was set to afterwards, or None.
    """

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Inert:
        """Remember the arguments."""
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __setstate__(self, state: Any) -> None:
        """Remember the state."""
        self.state = state


class Call:
    """What stands for a function: it can be called, and a pickle can change nothing about it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        """Hide the function."""
        self._function = function

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        """Refuse: no published file does so."""
        raise pickle.UnpicklingError("a change of a function")


class DataFrame(Inert):
    """Stands for ``pandas.DataFrame``."""


class BlockManager(Inert):
    """Stands for the holder of a data frame's blocks of columns."""


class Block(Inert):
    """Stands for a block: values, the places of its columns, number of dimensions."""


class Index(Inert):
    """Stands for the labels of an axis."""


class CooMatrix(Inert):
    """Stands for ``scipy.sparse.coo_matrix``."""


class Dtype(Inert):
    """Stands for ``numpy.dtype``."""

    def resolve(self) -> np.dtype[Any]:
        """The type of plain numbers, or of objects; any other is refused."""
        code = self.args[0] if self.args else None
        code = code.decode("latin-1") if isinstance(code, bytes) else code
        order = self.state[1] if isinstance(self.state, tuple) and len(self.state) > 1 else "="
        order = order.decode("latin-1") if isinstance(order, bytes) else order
        if code in ("O", "O8"):
            return np.dtype(object)
        if not (isinstance(code, str) and _PLAIN_TYPE.fullmatch(code) and order in ("<", ">", "|", "=")):
            raise pickle.UnpicklingError(f"an array of type {shown(code)}")
        return np.dtype(f"{order}{code}")


class Array(Inert):
    """Stands for ``numpy.ndarray``; ``value`` is the array, put together from its bytes or its list."""

    value: npt.NDArray[Any]

    def __setstate__(self, state: Any) -> None:
        """Put the array together from (version, shape, type, Fortran order, bytes or list)."""
        _, shape, dtype, fortran, raw = state
        self.fill(raw, dtype, shape, "F" if fortran else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: str) -> None:
        """Set ``value``; an error for what is no array of plain numbers or of objects."""
        if not isinstance(dtype, Dtype) or order not in ("C", "F"):
            raise pickle.UnpicklingError("an array without a type")
        kind = dtype.resolve()
        if kind.hasobject:
            if not isinstance(raw, list):
                raise pickle.UnpicklingError("an array of objects without a list")
            flat = np.fromiter(raw, dtype=object, count=len(raw))
        else:
            if isinstance(raw, str):  # as Python 2 wrote them
                raw = raw.encode("latin-1")
            flat = np.frombuffer(raw, dtype=kind)
        self.value = flat.reshape(shape, order="F" if order == "F" else "C")


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """An array of protocol 5."""
    array = Array()
    array.fill(raw, dtype, shape, order)
    return array


def _reconstruct(subtype: Any, shape: Any, dtype: Any) -> Array:
    """An array that is yet to be filled."""
    if subtype is not Array:
        raise pickle.UnpicklingError("a subclass of ndarray")
    return Array()


def _scalar(dtype: Any, raw: Any = None) -> Any:
    """One number."""
    return _frombuffer(raw, dtype, (1,), "C").value[0].item()


def _new_index(kind: Any, values: Any) -> Index:
    return Index(values)


def _reconstructor(kind: Any, base: Any, state: Any) -> Inert:
    """An object of protocol 0 or 1."""
    if not (isinstance(kind, type) and issubclass(kind, Inert)):
        raise pickle.UnpicklingError("an object of no known class")
    return kind()


def _encode(text: str, encoding: str) -> bytes:
    """Bytes, as protocols 0 to 2 write them."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in {shown(encoding)}")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """What protocols 0 to 2 write for empty bytes."""
    return b""


def _stand_ins() -> dict[tuple[str, str], Callable[..., Any]]:
    """(module, name) -> what it stands for; the whole list of what a file may ask for."""
    table: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): Dtype,
        ("pandas.core.frame", "DataFrame"): DataFrame,
        ("pandas", "DataFrame"): DataFrame,
        ("pandas.core.internals.managers", "BlockManager"): BlockManager,
        ("pandas.core.internals", "BlockManager"): BlockManager,
        ("pandas._libs.internals", "BlockManager"): BlockManager,
        ("pandas._libs.internals", "_unpickle_block"): Block,
        ("pandas.core.indexes.base", "_new_Index"): Call(_new_index),
        ("pandas.core.indexes.base", "Index"): Index,
        ("pandas", "Index"): Index,
        ("pandas.core.indexes.range", "RangeIndex"): Index,
        ("pandas", "RangeIndex"): Index,
        ("pandas.core.indexes.numeric", "Int64Index"): Index,
        ("scipy.sparse.coo", "coo_matrix"): CooMatrix,
        ("scipy.sparse._coo", "coo_matrix"): CooMatrix,
        ("_codecs", "encode"): Call(_encode),
    }
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray", "_reconstruct"] = Call(_reconstruct)
        table[f"{core}.multiarray", "scalar"] = Call(_scalar)
        table[f"{core}.numeric", "_frombuffer"] = Call(_frombuffer)
    for copies, builtins in (("copyreg", "builtins"), ("copy_reg", "__builtin__")):
        table[copies, "_reconstructor"] = Call(_reconstructor)
        table[builtins, "object"] = Inert
        table[builtins, "bytes"] = Call(_no_bytes)
        table[builtins, "slice"] = Call(slice)
    return table


ALLOWED: Mapping[tuple[str, str], Callable[..., Any]] = _stand_ins()
"""What a pickle may name, and what stands for it."""


class Refused(pickle.UnpicklingError):
    """A pickle asks for a name that no published file has."""


def _find(module: str, name: str) -> Any:
    """The stand-in of a name; an error for any other, before anything is called."""
    if (module, name) not in ALLOWED:
        raise Refused(f"{module}.{name}")
    return ALLOWED[module, name]


def _is_stand_in(value: Any) -> bool:
    """Whether a value was written here, and may be called."""
    return isinstance(value, Call) or (isinstance(value, type) and issubclass(value, Inert))


def _set_state(made: Any, state: Any) -> None:
    """Set the state of a made object; functions and classes refuse it."""
    if not isinstance(made, Inert | Call):
        raise pickle.UnpicklingError(f"a state of {shown(made)}")
    made.__setstate__(state)


def read_inert(path: Path, file: IO[bytes]) -> Any:
    """The data of a pickle: plain Python values, and stand-ins for the rest.

    Args:
        path: its name, for error messages.
        file: its bytes.

    Raises:
        DataError: if it asks for anything that the published files do not, claims more than a file of its
            size can hold, or is damaged. Nothing of it has been run.
    """
    try:
        return Machine(file.read(), _find, _is_stand_in, _set_state).run()
    except Refused as error:
        name = re.sub(r"[^\w.<>]", "?", str(error)[:100])
        raise DataError(
            f"{path}: this pickle asks for {name}, which no published file does; refused, nothing was run"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        what = str(error) if type(error) is pickle.UnpicklingError else reason(error)
        raise DataError(f"{path}: not a whole pickle as published ({what[:160]})") from None
