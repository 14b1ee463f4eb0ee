"""Damages files: bytes, JSON, safetensors; the same seed gives the same damage.

A test marked ``fuzz`` reads its number of examples from ``REFIT_FUZZ_EXAMPLES``.
"""

from __future__ import annotations

import copy
import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

EXAMPLES = int(os.environ.get("REFIT_FUZZ_EXAMPLES", "200"))
"""Number of examples of each test marked ``fuzz``."""
DEEP = 100_000
"""Levels of JSON that is nested too deeply."""
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**9, 10**30, 0.5, -0.5, 1e308, "", "x", "\x1b[31m",
    "[red]", "[/]", "../..", "é" * 50, [], {}, [[]], {"": None}, [1, "a", None], {"a": {"b": []}},
)  # fmt: skip
"""Values that replace others."""
NOT_JSON = ("NaN", "-Infinity", "1e999", "[" * DEEP, '{"a":' * DEEP, "[" * DEEP + "]" * DEEP, "\ufeff{}", "")
"""Text that replaces a value."""
DTYPES = ("F32", "F64", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E5M2", "U16", "C64", "XX")
"""Types of numbers of a safetensors header, and one that does not exist."""


def generators(first: int = 0) -> Iterator[random.Random]:
    """Yield a random generator for each example."""
    for seed in range(first, first + EXAMPLES):
        yield random.Random(seed)


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Cut, flip, insert, overwrite or repeat a part of a file."""
    at, length = rng.randrange(len(content) + 1), rng.choice((1, 2, 8, 64))
    changes: list[Callable[[], bytes]] = [
        lambda: content[:at],
        lambda: content[at:],
        lambda: content[:at] + bytes(rng.randrange(256) for _ in range(length)) + content[at:],
        lambda: content[:at] + bytes(rng.randrange(256) for _ in range(length)) + content[at + length :],
        lambda: content[:at] + b"\x00" * length + content[at + length :],
        lambda: content[:at] + b"\xff" * length + content[at + length :],
        lambda: content[:at] + content[at : at + length] * 3 + content[at + length :],
        lambda: b"",
    ]
    return rng.choice(changes)()


def mutate_value(value: Any, rng: random.Random) -> Any:
    """Replace, drop, double or add a part of a plain value, somewhere in it."""
    value = copy.deepcopy(value)
    places = [(None, None), *_places(value)]
    parent, key = rng.choice(places)
    if parent is None:
        return copy.deepcopy(rng.choice(ODD))
    change = rng.randrange(4)
    if change == 0:
        del parent[key]
    elif change == 1 and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif change == 2 and isinstance(parent, dict):
        parent[rng.choice(("", "extra", str(key) + "x"))] = parent[key]
    else:
        parent[key] = _nudged(parent[key], rng)
    return value


def mutate_json(content: bytes, rng: random.Random) -> bytes:
    """Damage JSON: mostly its values, sometimes its text."""
    kind = rng.randrange(10)
    if kind == 0:
        return mutate_bytes(content, rng)
    if kind == 1:
        text, words = content.decode(), json.dumps(mutate_value(json.loads(content), rng))
        return rng.choice(
            (rng.choice(NOT_JSON), text.replace(": ", ": " + rng.choice(NOT_JSON), 1), words)
        ).encode()
    return json.dumps(mutate_value(json.loads(content), rng)).encode()


def outcomes_of_damage(content: bytes, file: Path, read: Callable[[], object]) -> set[str]:
    """Return how damaged JSON files are read: ``"refused"`` in a short message, or ``"read"``.

    Args:
        content: the JSON of a whole file.
        file: where the damaged ones are written.
        read: reads the file.
    """
    outcomes = set()
    for rng in generators():
        file.write_bytes(mutate_json(content, rng))
        try:
            read()
        except ValueError as error:
            assert len(str(error)) < 1000
            outcomes.add("refused")
        else:
            outcomes.add("read")
    return outcomes


def mutate_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Damage a safetensors file: its bytes, its numbers, its header, or the JSON text ``meta`` in it."""
    (length,) = struct.unpack("<Q", content[:8])
    header, numbers = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    kind = rng.randrange(8)
    if kind == 0:
        return mutate_bytes(content, rng)
    if kind == 1:
        size = rng.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1))
        return struct.pack("<Q", size) + content[8:]
    if kind == 2 and numbers:
        word = rng.choice(
            (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80")
        )
        at = rng.randrange(0, max(1, len(numbers) - 4), 4)
        return (
            content[: 8 + length]
            + numbers[:at]
            + word * rng.choice((1, 2))
            + numbers[at + 4 :][: len(numbers)]
        )
    if kind == 3:
        header["__metadata__"] = mutate_value(header["__metadata__"], rng)
        return pack_safetensors(header, numbers)
    if kind == 4:
        return retyped(header, numbers, rng)
    if kind == 5:
        name = rng.choice(names)
        header[rng.choice(("x", name + "x", "0.exp_avg", "policy.x", rng.choice(names)))] = header.pop(name)
        return pack_safetensors(header, numbers)
    meta = json.loads(header["__metadata__"]["meta"])
    header["__metadata__"]["meta"] = mutate_json(json.dumps(meta).encode(), rng).decode(errors="replace")
    return pack_safetensors(header, numbers)


def retyped(header: dict[str, Any], numbers: bytes, rng: random.Random) -> bytes:
    """Return the file with one tensor of another type, shape or position, or without one tensor."""
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    change = rng.randrange(4)
    if change == 0:
        entry["dtype"] = rng.choice(DTYPES)
    elif change == 1:
        entry["shape"] = mutate_value(entry["shape"], rng)
    elif change == 2:
        entry["data_offsets"] = mutate_value(entry["data_offsets"], rng)
    else:
        return resized(header, numbers, name, rng.choice((0, 1, 2)))
    return pack_safetensors(header, numbers)


def resized(header: dict[str, Any], numbers: bytes, name: str, rows: int) -> bytes:
    """Return the file with a tensor of another size, with as many numbers as it states."""
    begin, end = header[name]["data_offsets"]
    size = {"F32": 4, "I32": 4, "U8": 1, "BOOL": 1}.get(header[name]["dtype"], 8)
    header[name]["shape"] = [rows]
    shift = rows * size - (end - begin)
    for entry in (value for key, value in header.items() if key != "__metadata__"):
        entry["data_offsets"] = [place + shift if place >= end else place for place in entry["data_offsets"]]
    header[name]["data_offsets"][0] = begin
    return pack_safetensors(header, numbers[:begin] + b"\x00" * (rows * size) + numbers[end:])


def unpack_safetensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return header and numbers of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def pack_safetensors(header: Any, numbers: bytes) -> bytes:
    """Build a safetensors file from a header and its tensors' bytes."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield container and key of each value within a value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys)[:200]:
        yield value, key
        yield from _places(value[key])


def _nudged(value: Any, rng: random.Random) -> Any:
    """Return another value: an unusual one, or a nearby number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.3:
        return rng.choice((value + 1, -value, value * 1000, value / 3))
    return copy.deepcopy(rng.choice(ODD))
