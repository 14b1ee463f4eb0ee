"""The rooms of the two packages import downwards only, without cycles, as docs/architecture.md shows."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.parsing import parsed

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("refit_env", "agents")


@cache
def modules() -> dict[str, Path]:
    """Return every module of the two packages by its dotted name."""
    out = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            out[name.removesuffix(".__init__")] = path
    return out


@cache
def imports() -> dict[str, frozenset[str]]:
    """Return the imports of each module, including those in functions and for annotations."""
    known, out = modules(), {}
    for name, path in known.items():
        found: set[str] = set()
        for node in ast.walk(parsed(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                for alias in node.names:
                    longer = f"{node.module}.{alias.name}"
                    found.add(longer if longer in known else node.module)
        out[name] = frozenset(found & known.keys() - {name})
    return out


def room(module: str) -> str:
    """Return the room of a module: its folder in the package, or the file at the package's root."""
    return ".".join(module.split(".")[:2])


def layers() -> list[list[str]]:
    """Return the layers of the picture in docs/architecture.md, top first: the code words of each line."""
    picture = re.search(r"<!-- layers -->\n(.*?)<!-- end of layers -->", PAGE.read_text("utf-8"), re.S)
    assert picture is not None
    return [rooms for line in picture.group(1).splitlines() if (rooms := re.findall(r"`([\w.]+)`", line))]


def test_the_picture_shows_every_room_once() -> None:
    shown = [name for layer in layers() for name in layer]
    roots = {"refit_env", "agents"}
    assert sorted(shown) == sorted({room(name) for name in modules()} - roots)


def test_rooms_import_downwards_only() -> None:
    depth = {name: number for number, layer in enumerate(layers()) for name in layer}
    wrong = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if room(module) != room(other) and "." in module and "." in other
        if depth[room(module)] >= depth[room(other)]
    ]
    assert not wrong


LEFT = []
"""Remaining cycles, by annotations and in functions; no new one is allowed."""


def test_no_other_module_imports_itself_through_others() -> None:
    assert circles(imports()) == LEFT


def test_a_circle_is_found() -> None:
    graph = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"a"}), "d": frozenset({"a"})}
    assert circles(graph) == [["a", "b", "c"]]


def circles(graph: dict[str, frozenset[str]]) -> list[list[str]]:
    """Return the sets of modules that reach each other, each sorted."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for other in graph[todo.pop()] - seen:
                seen.add(other)
                todo.append(other)
        return seen

    reach = {name: reached(name) for name in graph}
    found = {
        tuple(sorted(n for n in reach[name] if name in reach[n])) for name in graph if name in reach[name]
    }
    return [list(names) for names in sorted(found)]


def test_the_library_never_imports_the_agents() -> None:
    wrong = [
        n
        for n, others in imports().items()
        if n.startswith("refit_env") and any(o.startswith("agents") for o in others)
    ]
    assert not wrong


@pytest.mark.parametrize("package, most", [("agents", 5), ("refit_env", 10)])
def test_few_files_are_at_the_root_of_a_package(package: str, most: int) -> None:
    assert len(list((ROOT / package).glob("*.py"))) <= most


def test_only_its_room_imports_stable_baselines3() -> None:
    wrong = [
        name
        for name, path in modules().items()
        if re.search(r"^\s*(from|import) (stable_baselines3|sb3_contrib)\b", path.read_text("utf-8"), re.M)
        if room(name) != "agents.sb3"
    ]
    assert not wrong
