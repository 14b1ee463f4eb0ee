"""Python code as a syntax tree."""

from __future__ import annotations

import ast
import gc


def parsed(text: str, name: str = "<text>") -> ast.Module:
    """Return the tree; no garbage is collected meanwhile.

    What a collection runs may enter the parser again, and CPython 3.11 then ends with the SystemError "AST
    constructor recursion depth mismatch" (python/cpython issue 106905).
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(text, name)
    finally:
        if collects:
            gc.enable()
