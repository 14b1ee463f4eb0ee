"""Sphinx: Markdown pages, the furo theme, formulas as MathML (no script from another host)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import make_api  # noqa: E402  # it is beside this file

project = "refit-env"
author = "refit-env contributors"
copyright = author
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "refit-env"
html_favicon = "images/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
exclude_patterns = ["_build"]
maximum_signature_line_length = 90
nitpicky = False  # signatures name types of torch and NumPy, whose inventories need a network
suppress_warnings = [
    "misc.highlighting_failure",  # blocks that hold a file's lines, not a language
    "ref.python",  # an annotation's name that two modules define, such as Scorer
]

myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["math"]  # as GitHub renders it
myst_heading_anchors = 3


def _display_math(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(_mathml(node, display=True))
    raise nodes.SkipNode


def _inline_math(translator: Any, node: nodes.math) -> None:
    translator.body.append(_mathml(node, display=False))
    raise nodes.SkipNode


def _mathml(node: nodes.Node, display: bool) -> str:
    tree = latex2mathml.tex2mathml(node.astext(), as_block=display)
    return f'<div class="math" style="padding: 0.5em 0">{tree}</div>' if display else str(tree)


def _write_api(app: Any) -> None:
    make_api.write(HERE / "api")


def setup(app: Any) -> None:
    """Write the API pages before Sphinx lists the files, and render formulas."""
    app.add_html_math_renderer("mathml", (_inline_math, None), (_display_math, None))
    app.connect("config-inited", lambda app, config: _write_api(app))


html_math_renderer = "mathml"
