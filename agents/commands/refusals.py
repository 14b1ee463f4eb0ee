"""One line for a command line that the parser refuses, in place of its box of several lines."""

from __future__ import annotations

import re
from collections.abc import Sequence

from refit_env.errors import did_you_mean

_RULE = re.compile(r"^[\s│─╰╯-]*$")
_NUMBERS = (
    (re.compile(r"invalid literal for int\(\) with base 10: (.*)"), r"\1 is no whole number"),
    (re.compile(r"could not convert string to float: (.*)"), r"\1 is no number"),
)
"""What the parser says of text that is no number, and what is said instead."""
WIDE = "2000"
"""Columns of the parser's box, so that no line is wrapped."""


def refusal(box: str, prog: str) -> str:
    """Return the message of a box that tyro prints, as one line.

    Args:
        box: what was printed, in lines that are not wrapped and without control characters.
        prog: the command, such as ``refit tune``.

    Example:
        >>> box = '''╭─ Unrecognized options ─╮
        ... │ Unrecognized options: --minuts, 5 │
        ... │ ─────────────────────── │
        ... │ Perhaps you meant: │
        ... │     --minutes FLOAT │
        ... │         Time of all trials. │
        ... ╰─────────────────────────╯'''
        >>> refusal(box, "refit tune")
        "unknown option '--minuts'. Did you mean '--minutes'? `refit tune --help` shows all"
    """
    sections = _sections(box)
    if not sections:
        return f"{prog}: these options cannot be read; `{prog} --help` shows all"
    first, rest = sections[0], [line for section in sections[1:] for line in section]
    for line in rest:  # the parser names the subcommand
        prog = (
            line.partition("refit ")[2].removesuffix("--help").strip() or prog if "--help" in line else prog
        )
    prog = prog if prog.startswith("refit ") else f"refit {prog}"
    return f"{_message(first, rest)} `{prog} --help` shows all"


def _message(first: Sequence[str], rest: Sequence[str]) -> str:
    """Return what was wrong, and what would be right."""
    head = first[0].strip()
    if head.startswith("Unrecognized options: "):
        return _unknown(head.removeprefix("Unrecognized options: ").split(", "), rest)
    if head.startswith("Missing from"):
        return _missing(first[1:])
    if head.startswith("Error parsing "):
        option, _, fault = head.removeprefix("Error parsing ").partition(": ")
        for pattern, plain in _NUMBERS:
            fault = pattern.sub(plain, fault)
        return f"{option}: {_no_kind(fault.rstrip('.'))};"
    if match := re.match(r"invalid choice (.*) for argument '(.*)'\. Expected one of \((.*)\)", head):
        known = [word.strip(" '") for word in match[3].split(",")]
        near = did_you_mean(match[1].strip("'"), known)
        return f"{match[2]} {match[1]} is none of {', '.join(filter(None, known))}.{near}"
    if match := re.match(r"Expected one of \{(.*)\}", head):
        return f"a subcommand is missing, one of {match[1]};"
    if match := re.match(r"Missing value for argument \W*(--[\w.-]+)", head):
        return f"{match[1]} needs a value;"
    return " ".join(line.strip() for line in first).rstrip(".") + ";"


def _no_kind(fault: str) -> str:
    """Return the fault of an option that may have several kinds of values, in plain words.

    Example:
        >>> _no_kind("no type matching {None}|INT could be instantiated from ['abc']")
        "'abc' is no whole number"
    """
    if match := re.match(r"no type matching (.*) could be instantiated from \[(.*)\]", fault):
        words = {"INT": "whole number", "FLOAT": "number"}
        kinds = [words.get(kind, kind.strip("{}")) for kind in match[1].split("|") if kind != "{None}"]
        return f"{match[2]} is no {' or '.join(kinds)}"
    return re.sub(r"Could not find valid parse for arguments: \[(.*)\]", r"\1 cannot be read", fault)


def _missing(lines: Sequence[str]) -> str:
    """Return the message for what is required: names, each followed by its help."""
    names = [line.strip() for line in lines if re.match(r" {4}\S", line)]
    helps = [
        line.strip().removesuffix("(required)").rstrip(". ") for line in lines if line.startswith(" " * 8)
    ]
    options = [name for name in names if name.startswith("-")]
    if len(names) == 1 and helps:
        return f"{options[0] if options else 'an argument'} is missing: {' '.join(helps)};"
    return f"{' and '.join(options or ['arguments'])} are missing;"


def _unknown(words: Sequence[str], rest: Sequence[str]) -> str:
    """Return the message for words that no option accepts."""
    options = [word for word in words if word.startswith("--")]
    if options:
        near = [match.group(1) for line in rest if (match := re.match(r"\s+(--[\w.-]+)", line))]
        found = did_you_mean(options[0], near) or (f" Did you mean {near[0]!r}?" if len(near) == 1 else "")
        return f"unknown option '{options[0]}'.{found}"
    commands = next((line for line in rest if line.strip().startswith("Available subcommands: ")), "")
    known = [name.strip() for name in commands.partition(": ")[2].split(",") if name.strip()]
    if known:
        said = f"unknown subcommand '{words[0]}'.{did_you_mean(words[0], known)}"
        return f"{said} Known: {', '.join(known)}."
    return f"no option accepts '{words[0]}';"


def _sections(box: str) -> list[list[str]]:
    """Return the lines of each section of the box, without its title and frame.

    Where the terminal's encoding has no lines to draw, the frame is made of blanks and hyphens.
    """
    out: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:
        if _RULE.match(line):
            out.append([])
            continue
        out[-1].append(line[2:].rstrip().removesuffix("│").rstrip())
    return [section for section in out if section]
