"""Generated pages: written where they differ from what is there, or only compared."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""


def write_pages(
    wanted: Mapping[Path, str], folders: Iterable[Path], arguments: Sequence[str], gone: str
) -> int:
    """Write the pages, and delete others of the folders; with ``--check`` only print which differ.

    Args:
        wanted: path -> content.
        folders: folders all of whose pages are generated.
        arguments: of the command line.
        gone: why a page is deleted.

    Returns:
        The exit code: 1 if ``--check`` found a difference.
    """
    there = {
        path: path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.glob("*.md"))
    }
    stale = [path for path in sorted(wanted.keys() | there.keys()) if wanted.get(path) != there.get(path)]
    for path in stale:
        name = path.relative_to(ROOT).as_posix()
        if "--check" in arguments:
            print(f"out of date: {name} (run `make docs`)", file=sys.stderr)
        elif path in wanted:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
            print(f"wrote {name}")
        else:
            path.unlink()
            print(f"deleted {name}: {gone}")
    return 1 if stale and "--check" in arguments else 0
