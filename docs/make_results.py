"""Write the tables of measured results into README.md and docs/results.md.

Every file of benchmarks/results, and every ``comparison.json`` of its folders, that has a ``table`` or
``tables`` becomes one section of docs/results.md; those with ``"readme": true`` also stand in README.md. The
form of such a file:

    {"title": "...", "command": "python -m benchmarks...", "note": "...", "readme": true,
     "table": {"columns": ["model", ...], "rows": [["DiffRec", ...], ...]}, ...}

``"tables"`` is a list of such tables, each with a ``title`` of its own; ``"figure"`` names a picture that
lies beside the file.

Run it with ``make docs``; ``--check`` changes nothing and fails where a page is out of date.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
COMPARISON = "comparison.json"
"""What ``refit compare`` leaves in its folder."""
NOTHING_YET = "_No results yet: run a benchmark, then `make docs`._"


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Read the result files that hold tables, in order of their names; each knows its ``folder``."""
    paths = [*sorted(folder.glob("*.json")), *sorted(folder.glob(f"*/{COMPARISON}"))]
    results = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    return [
        result | {"folder": path.parent}
        for path, result in results
        if isinstance(result, dict) and ("table" in result or "tables" in result)
    ]


def section(result: Mapping[str, Any], page: Path = ROOT / "README.md") -> str:
    """One result as Markdown: title, tables, figure, the command that made it, what to know.

    Args:
        result: of ``load_results``.
        page: where it will stand; the figure's link starts there.
    """
    parts = [f"### {result['title']}"]
    for table in [result["table"]] if "table" in result else result["tables"]:
        parts += [f"**{table['title']}**"] if "title" in table else []
        parts.append(markdown_table(table["columns"], table["rows"]))
    if result.get("figure"):
        link = Path(os.path.relpath(result["folder"] / result["figure"], page.parent)).as_posix()
        parts.append(f"![{result['title']}]({link})")
    parts.append(f"Made by `{result['command']}`." + (f" {result['note']}" if result.get("note") else ""))
    return "\n\n".join(parts)


def markdown_table(columns: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others numbers.

    Raises:
        ValueError: if a row has not one cell per column.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"row {list(row)} has {len(row)} cells, the table has {len(columns)} columns")
    lines = [list(columns), ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def fill(page: str, results: Sequence[Mapping[str, Any]], path: Path = ROOT / "README.md") -> str:
    """Put the results between the markers of a page, which lies at ``path``.

    Raises:
        ValueError: if the page has not exactly one pair of markers.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs {BEGIN} and {END} once each")
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    body = "\n\n".join(section(result, path) for result in results) or NOTHING_YET
    return f"{head}{BEGIN}\n\n{body}\n\n{END}{tail}"


def pages(root: Path = ROOT) -> dict[Path, str]:
    """The two pages as they should be."""
    results = load_results(root / "benchmarks" / "results")
    chosen = {
        root / "README.md": [result for result in results if result.get("readme")],
        root / "docs" / "results.md": results,
    }
    return {path: fill(path.read_text(encoding="utf-8"), of, path) for path, of in chosen.items()}


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with ``--check`` compare them."""
    stale = {path: text for path, text in pages().items() if path.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        if "--check" in arguments:
            print(f"out of date: {path.relative_to(ROOT)} (run `make docs`)", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
