"""Docstrings as Markdown, and the docstrings of fields: what the generators of the pages share."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

SECTIONS = ("Args", "Returns", "Raises", "Yields", "Attributes", "Example", "Examples", "Note")
"""Google-style headings that become bold words."""
ENTRIES = ("Args", "Raises", "Attributes")
"""Sections whose text is a list of names."""


def markdown(docstring: str) -> str:
    """Docstring to Markdown: double backticks become single ones, doctests become code blocks."""
    out: list[str] = []
    inside = False
    for line in docstring.splitlines():
        doctest = line.lstrip().startswith((">>>", "...")) or (inside and bool(line.strip()))
        if doctest != inside:
            out.append("```python" if doctest else "```")
            inside = doctest
        out.append(line if doctest else single(line))
    return "\n".join([*out, "```"] if inside else out)


def single(text: str) -> str:
    """Text with single backticks for double ones; fences stay."""
    return re.sub(r"(?<!`)``(?!`)", "`", text)


def google(docstring: str) -> str:
    """A Google-style docstring as Markdown: sections get bold names, arguments become lists."""
    parts = []
    for name, text in sections(docstring):
        body = itemized(text) if name in ENTRIES else markdown(literal(text))
        parts.append(f"**{name}**\n\n{body}" if name else body)
    return "\n\n".join(part.strip("\n") for part in parts if part.strip())


def sections(docstring: str) -> Iterator[tuple[str, str]]:
    """The parts of a docstring as (name, text without indentation); the first has no name."""
    name, lines = "", list[str]()
    for line in inspect.cleandoc(docstring).splitlines():
        found = re.fullmatch(r"(\w+):", line)
        if found and found[1] in SECTIONS:
            yield name, textwrap.dedent("\n".join(lines))
            name, lines = found[1], []
        else:
            lines.append(line)
    yield name, textwrap.dedent("\n".join(lines))


def itemized(text: str) -> str:
    """``name: what it is`` entries, with their continuation lines, as a Markdown list."""
    items: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") and items:
            items[-1] += " " + line.strip()
        elif line.strip():
            name, colon, what = line.partition(": ")
            items.append(f"- `{name}`: {what}" if colon else f"- {line}")
    return single("\n".join(items))


def literal(text: str) -> str:
    """Text whose indented blocks (equations, tables of letters) are fenced."""
    out: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("    ") and not inside and (not out or not out[-1].strip()):
            out.append("```text")
            inside = True
        elif inside and line.strip() and not line.startswith("    "):
            while not out[-1].strip():
                out.pop()
            out += ["```", ""]
            inside = False
        out.append(line[4:] if inside else line.replace("::", ":") if line.endswith("::") else line)
    return "\n".join([*out, "```"] if inside else out)


def first_sentence(docstring: str | None) -> str:
    """The first paragraph of a docstring up to its first full stop, on one line."""
    paragraph = " ".join(inspect.cleandoc(docstring or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`])", single(paragraph))[0]


def field_docs(cls: type) -> dict[str, str]:
    """The docstring below each field of a dataclass and of its bases, on one line."""
    out: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__ == "builtins":
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for line, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                text = below.value.value if _is_text(below) else ""  # type: ignore[attr-defined]
                if text or line.target.id not in out:  # another default alone: the base's text
                    out[line.target.id] = single(" ".join(text.split()))
    return out


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def settings_table(cls: type, label: str = "setting") -> str:
    """The fields of a dataclass: name, default, what it is."""
    docs = field_docs(cls)
    rows = [[f"`{field.name}`", f"`{default(field)!r}`", docs.get(field.name, "")] for field in fields(cls)]
    return table([label, "default", "meaning"], rows)


def default(field: Field[Any]) -> Any:
    """The default of a field."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table of text."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
