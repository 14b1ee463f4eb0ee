"""Write the tables of measured results into README.md and docs/results.md.

Every file of benchmarks/results that has a ``table`` becomes one section of docs/results.md; those with
``"readme": true`` also stand in README.md. The form of such a file:

    {"title": "...", "command": "python -m benchmarks...", "note": "...", "readme": true,
     "table": {"columns": ["model", ...], "rows": [["DiffRec", ...], ...]}, ...}

Run it with ``make docs``; ``--check`` changes nothing and fails where a page is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
NOTHING_YET = "_No results yet: run a benchmark, then `make docs`._"


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Read the result files that hold a table, in order of their names."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [result for result in results if isinstance(result, dict) and "table" in result]


def section(result: Mapping[str, Any]) -> str:
    """One result as Markdown: title, table, the command that made it, what to know."""
    columns, rows = result["table"]["columns"], result["table"]["rows"]
    parts = [f"### {result['title']}", markdown_table(columns, rows), f"Made by `{result['command']}`."]
    if result.get("note"):
        parts[-1] += f" {result['note']}"
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


def fill(page: str, results: Sequence[Mapping[str, Any]]) -> str:
    """Put the results between the markers of a page.

    Raises:
        ValueError: if the page has not exactly one pair of markers.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs {BEGIN} and {END} once each")
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    body = "\n\n".join(section(result) for result in results) or NOTHING_YET
    return f"{head}{BEGIN}\n\n{body}\n\n{END}{tail}"


def pages(root: Path = ROOT) -> dict[Path, str]:
    """The two pages as they should be."""
    results = load_results(root / "benchmarks" / "results")
    chosen = {
        root / "README.md": [result for result in results if result.get("readme")],
        root / "docs" / "results.md": results,
    }
    return {path: fill(path.read_text(encoding="utf-8"), of) for path, of in chosen.items()}


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
