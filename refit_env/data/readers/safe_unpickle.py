"""Reads the data of a pickle without running its code.

A pickle is a program: it names functions of installed packages and calls them. Here the few names that the
published files use map to placeholders, which only store their arguments; arrays are built from their bytes.
A name that is not listed below raises an error before anything is called. No code of SciPy or pandas runs, so
their versions at writing and at reading may differ.
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
    """Placeholder for an object of a pickle.

    Attributes:
        args: the arguments of its class.
        state: the state that was set afterwards, or None.
    """

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Inert:
        """Store the arguments."""
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __setstate__(self, state: Any) -> None:
        """Store the state."""
        self.state = state


class Call:
    """Placeholder for a function: a pickle can call it, but cannot change it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        """Store the function."""
        self._function = function

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        """Raise an error: no published file sets the state of a function."""
        raise pickle.UnpicklingError("a change of a function")


class DataFrame(Inert):
    """Placeholder for ``pandas.DataFrame``."""


class BlockManager(Inert):
    """Placeholder for the manager of a data frame's blocks of columns."""


class Block(Inert):
    """Placeholder for a block: values, positions of its columns, number of dimensions."""


class Index(Inert):
    """Placeholder for the labels of an axis."""


class CooMatrix(Inert):
    """Placeholder for ``scipy.sparse.coo_matrix``."""


class Dtype(Inert):
    """Placeholder for ``numpy.dtype``."""

    def resolve(self) -> np.dtype[Any]:
        """Return the type of plain numbers or of objects; raise an error for any other."""
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
    """Placeholder for ``numpy.ndarray``; ``value`` is the array, built from its bytes or its list."""

    value: npt.NDArray[Any]

    def __setstate__(self, state: Any) -> None:
        """Build the array from (version, shape, type, Fortran order, bytes or list)."""
        _, shape, dtype, fortran, raw = state
        self.fill(raw, dtype, shape, "F" if fortran else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: str) -> None:
        """Set ``value``; raise an error unless it is an array of plain numbers or of objects."""
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
    """Return an array of protocol 5."""
    array = Array()
    array.fill(raw, dtype, shape, order)
    return array


def _reconstruct(subtype: Any, shape: Any, dtype: Any) -> Array:
    """Return an array without content, which is set later."""
    if subtype is not Array:
        raise pickle.UnpicklingError("a subclass of ndarray")
    return Array()


def _scalar(dtype: Any, raw: Any = None) -> Any:
    """Return one number."""
    return _frombuffer(raw, dtype, (1,), "C").value[0].item()


def _new_index(kind: Any, values: Any) -> Index:
    return Index(values)


def _reconstructor(kind: Any, base: Any, state: Any) -> Inert:
    """Return an object of protocol 0 or 1."""
    if not (isinstance(kind, type) and issubclass(kind, Inert)):
        raise pickle.UnpicklingError("an object of no known class")
    return kind()


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes, as protocols 0 to 2 store them."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in {shown(encoding)}")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """Return empty bytes, as protocols 0 to 2 store them."""
    return b""


def _placeholders() -> dict[tuple[str, str], Callable[..., Any]]:
    """Return (module, name) -> placeholder, for every name that a file may use."""
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


ALLOWED: Mapping[tuple[str, str], Callable[..., Any]] = _placeholders()
"""(module, name) that a pickle may use -> its placeholder."""


class Refused(pickle.UnpicklingError):
    """A pickle uses a name that no published file uses."""


def _find(module: str, name: str) -> Any:
    """Return the placeholder of a name; raise an error for an unlisted name."""
    if (module, name) not in ALLOWED:
        raise Refused(f"{module}.{name}")
    return ALLOWED[module, name]


def _is_placeholder(value: Any) -> bool:
    """Return whether a value is a placeholder, which may be called."""
    return isinstance(value, Call) or (isinstance(value, type) and issubclass(value, Inert))


def _set_state(made: Any, state: Any) -> None:
    """Set the state of an object; raise an error for functions and classes."""
    if not isinstance(made, Inert | Call):
        raise pickle.UnpicklingError(f"a state of {shown(made)}")
    made.__setstate__(state)


def read_inert(path: Path, file: IO[bytes]) -> Any:
    """Read the data of a pickle: plain Python values, and placeholders for other objects.

    Args:
        path: its name, for error messages.
        file: its bytes.

    Raises:
        DataError: if it uses a name that the published files do not, states more objects than a file of its
            size can hold, or is damaged. None of its code has been run.
    """
    try:
        return Machine(file.read(), _find, _is_placeholder, _set_state).run()
    except Refused as error:
        name = re.sub(r"[^\w.<>]", "?", str(error)[:100])
        raise DataError(
            f"{path}: this pickle uses {name}, which no published file does; refused, nothing was run"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        what = str(error) if type(error) is pickle.UnpicklingError else reason(error)
        raise DataError(f"{path}: not a whole pickle as published ({what[:160]})") from None
