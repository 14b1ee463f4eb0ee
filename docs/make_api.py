"""Write docs/api: a page for each package, with the public classes and functions of its modules.

The site's configuration calls it at each build, so the pages are not kept in the repository.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from docstrings import google, literal, markdown

PACKAGES = ("refit_env", "agents")
WITHOUT = ("agents.commands", "agents.cli")
"""What a person runs by name instead of importing."""


class Plain(str):
    """An annotation that a signature shows without quotes."""

    __repr__ = str.__str__


def write(folder: Path) -> None:
    """Write the pages, and delete those that no package has any more."""
    folder.mkdir(exist_ok=True)
    wanted = pages()
    for path in folder.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Every page by file name."""
    by_package: dict[str, list[ModuleType]] = defaultdict(list)
    for module in modules():
        package = module.__name__ if hasattr(module, "__path__") else module.__name__.rpartition(".")[0]
        by_package[package].append(module)
    texts = {package: page(package, found) for package, found in sorted(by_package.items())}
    kept = {f"{package}.md": text for package, text in texts.items() if text}
    toc = "\n".join(["```{toctree}", *(name.removesuffix(".md") for name in kept), "```"])
    head = "# API reference\n\nPublic classes and functions, a page for each package."
    return {"index.md": f"{head}\n\n{toc}\n"} | kept


def modules() -> Iterator[ModuleType]:
    """Every module of the two packages whose name and dependencies allow its import."""
    for package in PACKAGES:
        root = import_module(package)
        yield root
        for found in pkgutil.walk_packages(root.__path__, f"{package}."):
            if not found.name.startswith(WITHOUT) and "._" not in found.name:
                yield import_module(found.name)


def page(package: str, found: list[ModuleType]) -> str:
    """A package's page: a section for each of its modules that defines something."""
    parts = []
    for module in found:
        members = [*public(module)]
        is_package = module.__name__ == package
        if not members and not is_package:
            continue
        text = inspect.getdoc(module) or ""
        parts.append("" if is_package else f"## {module.__name__}")
        parts.append(markdown(literal(text)) if text else "")
        parts.append(f"```{{py:currentmodule}} {module.__name__}\n```" if members else "")
        parts += [entry(name, member) for name, member in members]
    body = "\n\n".join(part for part in parts if part)
    return f"# {package}\n\n{body}\n" if any("{py:" in part for part in parts) else ""


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The classes and functions that a module defines, in the order of its lines."""
    for name, member in vars(module).items():
        known = inspect.isclass(member) or inspect.isfunction(member)
        if known and not name.startswith("_") and member.__module__ == module.__name__:
            yield name, member


def entry(name: str, member: Any) -> str:
    """A class with its methods, or a function, as a directive of Sphinx's Python domain."""
    if not inspect.isclass(member):
        return directive("py:function", name + signature(member), google(member.__doc__ or ""))
    parts = [google(member.__doc__ or "")]
    for label, method in vars(member).items():
        parts += [] if label.startswith("_") else [described(label, method)]
    text = "\n\n".join(part for part in parts if part)
    return directive("py:class", name + signature(member), text, fence="``````")


def described(label: str, method: Any) -> str:
    """A method or property; nothing for other attributes, which the class describes."""
    options = ""
    if isinstance(method, classmethod | staticmethod):
        options, method = f":{type(method).__name__}:", method.__func__
    if isinstance(method, property):
        return directive("py:property", label, google(method.__doc__ or ""))
    if not inspect.isfunction(method) or not method.__doc__:
        return ""
    return directive("py:method", label + signature(method, bound=True), google(method.__doc__), options)


def directive(kind: str, what: str, text: str, options: str = "", fence: str = "`````") -> str:
    """One block of the Python domain."""
    return "\n".join([f"{fence}{{{kind}}} {what}", *([options] if options else []), "", text, fence])


def signature(function: Callable[..., Any], bound: bool = False) -> str:
    """A signature as it is written in the source: annotations without quotes, no ``self``."""
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return "()"
    parameters = [
        p.replace(
            annotation=p.annotation if p.annotation is p.empty else Plain(shown(p.annotation)),
            default=p.default if p.default is p.empty else Plain(brief(p.default)),
        )
        for p in list(found.parameters.values())[int(bound) :]
    ]
    returned = found.return_annotation
    if returned is not inspect.Signature.empty and not inspect.isclass(function):
        returned = Plain(shown(returned))
    else:
        returned = inspect.Signature.empty
    return str(found.replace(parameters=parameters, return_annotation=returned))


def shown(annotation: Any) -> str:
    """An annotation as text."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return " ".join(text.split())


def brief(value: Any) -> str:
    """A default as text: of what has no short form that could be typed, dots."""
    text = repr(value)
    return "..." if text.startswith("<") or "\n" in text or len(text) > 60 else text
