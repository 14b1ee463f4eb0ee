"""Turns msgspec's message about a value of another type into plain words."""

from __future__ import annotations

import re
from typing import Any

import msgspec

KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object {...}",
    "null": "null",
}
"""Words for JSON's types."""

_EXPECTED = re.compile(r"Expected `(?P<kinds>[^`]+)`(?P<bound> [^,]*?)?(, got `(?P<found>[^`]+)`)?")
_FIELD = re.compile(r"Object (?P<fault>missing required|contains unknown) field `(?P<field>.*)`", re.DOTALL)
_VALUE = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_PLACE = re.compile(r" - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`$")
_LONGEST = 200


def in_words(message: str, kind: Any = None) -> str:
    """Return what is wrong with which field, and what would be right.

    Args:
        message: text of a ``msgspec.ValidationError``. It holds names of fields, and no values but those
            of a set, such as a task.
        kind: the type that was expected, if known: it states the values of a set.

    Returns:
        One line; a message of an unknown form is returned as it is, a very long one without its middle.

    Example:
        >>> in_words("Expected `int`, got `str` - at `$.num_users`")
        'num_users must be a whole number, found text'
        >>> in_words("Expected `str | null`, got `int` - at `$.names[0]`")
        'names[0] must be text or null, found a whole number'
        >>> in_words("Expected `int` >= 1 - at `$.num_steps`")
        'num_steps must be a whole number >= 1'
        >>> in_words("Object missing required field `command`")
        'command is missing'
        >>> in_words("Expected `object`, got `array`")
        'must be an object {...}, found a list'
    """
    place = _PLACE.search(message)
    path = place["path"].removeprefix(".") if place else ""
    if place and place["key"]:
        path = f"a name in {path}" if path else "a name"
    elif path.endswith("[...]"):
        path = f"a value in {path[:-5]}" if len(path) > 5 else "a value"
    rest = message[: place.start()] if place else message
    if field := _FIELD.fullmatch(rest):
        name = f"{path}.{field['field']}" if path else field["field"]
        words = f"{name} is missing" if field["fault"].startswith("missing") else f"{name} is unknown"
    elif expected := _EXPECTED.fullmatch(rest):
        kinds = " or ".join(KINDS.get(kind, kind) for kind in expected["kinds"].split(" | "))
        words = f"{path} must be {kinds}{expected['bound'] or ''}".lstrip()
        if expected["found"]:
            words += f", found {KINDS.get(expected['found'], expected['found'])}"
    elif enum := _VALUE.fullmatch(rest):
        known = _values(kind, path)
        words = f"{path} {enum[1]} is not {f'one of {known}' if known else 'known'}".lstrip()
    else:
        words = f"{path}: {rest[:1].lower()}{rest[1:]}".removeprefix(": ")
    return words if len(words) <= _LONGEST else f"{words[:120]} ... {words[-60:]}"


def _values(kind: Any, path: str) -> str:
    """Return the values that the field of a type may have; empty if the type states none."""
    there = None if kind is None else msgspec.inspect.type_info(kind)
    for name in path.split(".") if path else ():
        fields = {field.name: field.type for field in getattr(there, "fields", ())}
        there = fields.get(name)
    values = there.values if isinstance(there, msgspec.inspect.LiteralType) else ()
    return ", ".join(map(str, values))
