"""Runs pickle operations with limits: only listed names, no hashing of tuples, bounded sizes.

Python's own unpickler does not bound its work: ten bytes can allocate a memo of any size, a nested tuple as a
key can need years to hash, and a long text is copied at every call that passes it. This one supports only the
operations that data need, keeps the memo shorter than the file, and counts the objects that it makes.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any

from refit_env.data.limits import FREE
from refit_env.utils.text import shown

MOST_ENTRIES = 1000
"""Most entries of a dictionary; those of the published files hold up to ten attributes."""
_KEYS = (str, bytes, int, float, bool, type(None))
"""Types that may be a dictionary's keys: their hash needs no more time than reading them."""
_MARK = object()


class Machine:
    """Runs the operations of one pickle.

    Args:
        content: the pickle.
        find: returns the placeholder of (module, name), or raises an error.
        is_known: returns whether a value is a placeholder that may be called.
        set_state: sets the state of an object, or raises an error.
    """

    def __init__(
        self,
        content: bytes,
        find: Callable[[str, str], Any],
        is_known: Callable[[Any], bool],
        set_state: Callable[[Any, Any], None],
    ) -> None:
        """Start at the first byte."""
        self.content, self.place = content, 0
        self.find, self.is_known, self.set_state = find, is_known, set_state
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.left = FREE + 2 * len(content)

    def run(self) -> Any:
        """Run the pickle and return its value.

        Raises:
            pickle.UnpicklingError: for an unsupported operation, or more objects than a file of this size
            holds.
            Exception: of some built-in type, if the pickle is damaged.
        """
        content, handlers, end = self.content, _HANDLERS, len(self.content)
        while self.place < end:
            code = content[self.place]
            self.place += 1
            if code == _STOP:
                return self.stack.pop()
            handler = handlers.get(code)
            if handler is None:
                raise pickle.UnpicklingError(f"the operation {code:#04x}, which data do not need")
            handler(self)
        raise pickle.UnpicklingError("the end is missing")

    def take(self, size: int) -> bytes:
        """Read the next bytes."""
        end = self.place + size
        if end > len(self.content):
            raise pickle.UnpicklingError("the end is missing")
        taken = self.content[self.place : end]
        self.place = end
        return taken

    def number(self, form: str) -> Any:
        """Read the next number, in a format of ``struct``."""
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return value

    def line(self) -> bytes:
        """Read the bytes up to the next line end."""
        end = self.content.index(b"\n", self.place)
        taken = self.content[self.place : end]
        self.place = end + 1
        return taken

    def charge(self, units: int) -> None:
        """Count units of work and memory; raise an error above the limit for a file of this size."""
        self.left -= units
        if self.left < 0:
            raise pickle.UnpicklingError("far more objects than a file of this size holds")

    def pop(self) -> Any:
        """Remove and return the topmost value."""
        value = self.stack.pop()
        if value is _MARK:
            raise pickle.UnpicklingError("a mark in place of a value")
        return value

    def pop_to_mark(self) -> list[Any]:
        """Remove the topmost mark and the values above it, and return the values."""
        stack = self.stack
        for place in range(len(stack) - 1, -1, -1):
            if stack[place] is _MARK:
                values = stack[place + 1 :]
                del stack[place:]
                return values
        raise pickle.UnpicklingError("a missing mark")

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def make(self, value: Any) -> None:
        """Put a new container on the stack."""
        self.charge(1)
        self.stack.append(value)

    def top(self, kind: type) -> Any:
        """Return the topmost value, which must be of a type."""
        value = self.stack[-1]
        if type(value) is not kind:
            raise pickle.UnpicklingError(f"{shown(value)} in place of a {kind.__name__}")
        return value

    def remember(self, key: int) -> None:
        """Store the topmost value in the memo, under a number no larger than the current position."""
        if key > self.place:
            raise pickle.UnpicklingError(f"entry {key} of a memo with far fewer entries")
        self.memo[key] = self.stack[-1]

    def fill(self, entries: dict[Any, Any], values: list[Any]) -> None:
        """Set keys and values, which alternate in ``values``."""
        if len(values) % 2:
            raise pickle.UnpicklingError("a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) not in _KEYS:
                raise pickle.UnpicklingError(f"{shown(key)} as a key")
            entries[key] = value
            if len(entries) > MOST_ENTRIES:
                raise pickle.UnpicklingError(f"a dictionary of more than {MOST_ENTRIES} entries")

    def call(self, function: Any, arguments: Any) -> None:
        """Call a placeholder."""
        if type(arguments) is not tuple or not self.is_known(function):
            raise pickle.UnpicklingError(f"a call of {shown(function)}")
        self.charge(1 + _length(arguments))
        self.stack.append(function(*arguments))

    def build(self) -> None:
        """Set the state of the object below the topmost value to that value."""
        state = self.pop()
        self.charge(_length(state) if type(state) is tuple else 1)
        self.set_state(self.stack[-1], state)

    def name(self, module: Any, name: Any) -> None:
        """Put the placeholder of a name on the stack."""
        if type(module) is not str or type(name) is not str:
            raise pickle.UnpicklingError("a name that is not text")
        self.stack.append(self.find(module, name))

    def called(self, keywords: bool = False) -> None:
        """Create an object from a class and its arguments; keyword arguments must be empty."""
        if keywords and self.pop() != {}:
            raise pickle.UnpicklingError("keyword arguments")
        arguments = self.pop()
        self.call(self.pop(), arguments)


def _length(values: tuple[Any, ...]) -> int:
    """Return the number of elements to copy, counting a repeated value each time."""
    return len(values) + sum(len(v) for v in values if type(v) in (str, bytes, bytearray, list, tuple))


def _integer(line: bytes) -> int | bool:
    """Parse a number of protocol 0; ``00`` and ``01`` are booleans."""
    if line in (b"00", b"01"):
        return line == b"01"
    return int(line.removesuffix(b"L"))


def _quoted(line: bytes) -> str:
    """Parse a text of protocol 0, as Python 2 wrote it."""
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
        raise pickle.UnpicklingError("a text without quotes")
    return line[1:-1].decode("unicode_escape")


def _reduce(machine: Machine) -> None:
    arguments = machine.pop()
    machine.call(machine.pop(), arguments)


def _append(machine: Machine) -> None:
    value = machine.pop()
    machine.top(list).append(value)


def _appends(machine: Machine) -> None:
    values = machine.pop_to_mark()
    machine.top(list).extend(values)


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.fill(machine.top(dict), [key, value])


def _set_items(machine: Machine) -> None:
    values = machine.pop_to_mark()
    machine.fill(machine.top(dict), values)


def _new_dict(machine: Machine) -> None:
    values = machine.pop_to_mark()
    machine.make({})
    machine.fill(machine.stack[-1], values)


def _short_tuple(size: int) -> Callable[[Machine], None]:
    def handler(machine: Machine) -> None:
        values = [machine.pop() for _ in range(size)]
        machine.make(tuple(reversed(values)))

    return handler


def _stacked_name(machine: Machine) -> None:
    name = machine.pop()
    machine.name(machine.pop(), name)


def _sized(form: str, decode: Callable[[bytes], Any]) -> Callable[[Machine], None]:
    """Return an operation that reads a size, then pushes the value of that many bytes."""
    return lambda machine: machine.push(decode(machine.take(machine.number(form))))


def _signed(content: bytes) -> int:
    return int.from_bytes(content, "little", signed=True)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


def _old_text(content: bytes) -> str:
    return content.decode("latin-1")


def _frame(machine: Machine) -> None:
    machine.number("<Q")  # the size of a frame, which is not needed


def _protocol(machine: Machine) -> None:
    machine.take(1)


def _drop(machine: Machine) -> None:
    machine.stack.pop()


def _drop_to_mark(machine: Machine) -> None:
    machine.pop_to_mark()


def _duplicate(machine: Machine) -> None:
    value = machine.pop()
    machine.stack += [value, value]


_STOP = ord(".")
_HANDLERS: dict[int, Callable[[Machine], None]] = {
    ord("\x80"): _protocol,
    ord("\x95"): _frame,
    ord("("): lambda m: m.push(_MARK),
    ord("0"): _drop,
    ord("1"): _drop_to_mark,
    ord("2"): _duplicate,
    ord("N"): lambda m: m.push(None),
    ord("\x88"): lambda m: m.push(True),
    ord("\x89"): lambda m: m.push(False),
    ord("I"): lambda m: m.push(_integer(m.line())),
    ord("L"): lambda m: m.push(_integer(m.line())),
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    ord("\x8a"): _sized("<B", _signed),
    ord("\x8b"): _sized("<I", _signed),
    ord("F"): lambda m: m.push(float(m.line())),
    ord("G"): lambda m: m.push(m.number(">d")),
    ord("S"): lambda m: m.push(_quoted(m.line())),
    ord("T"): _sized("<I", _old_text),
    ord("U"): _sized("<B", _old_text),
    ord("V"): lambda m: m.push(m.line().decode("raw_unicode_escape")),
    ord("X"): _sized("<I", _text),
    ord("\x8c"): _sized("<B", _text),
    ord("\x8d"): _sized("<Q", _text),
    ord("B"): _sized("<I", bytes),
    ord("C"): _sized("<B", bytes),
    ord("\x8e"): _sized("<Q", bytes),
    ord("\x96"): _sized("<Q", bytearray),
    ord("]"): lambda m: m.make([]),
    ord("l"): lambda m: m.make(m.pop_to_mark()),
    ord("a"): _append,
    ord("e"): _appends,
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.make(tuple(m.pop_to_mark())),
    ord("\x85"): _short_tuple(1),
    ord("\x86"): _short_tuple(2),
    ord("\x87"): _short_tuple(3),
    ord("}"): lambda m: m.make({}),
    ord("d"): _new_dict,
    ord("s"): _set_item,
    ord("u"): _set_items,
    ord("p"): lambda m: m.remember(int(m.line())),
    ord("q"): lambda m: m.remember(m.number("<B")),
    ord("r"): lambda m: m.remember(m.number("<I")),
    ord("\x94"): lambda m: m.remember(len(m.memo)),
    ord("g"): lambda m: m.push(m.memo[int(m.line())]),
    ord("h"): lambda m: m.push(m.memo[m.number("<B")]),
    ord("j"): lambda m: m.push(m.memo[m.number("<I")]),
    ord("c"): lambda m: m.name(m.line().decode(), m.line().decode()),
    ord("\x93"): _stacked_name,
    ord("R"): _reduce,
    ord("b"): Machine.build,
    ord("\x81"): Machine.called,
    ord("\x92"): lambda m: m.called(keywords=True),
}
"""Operation -> handler. Sets, persistent ids, extensions, buffers and old classes are not supported."""
