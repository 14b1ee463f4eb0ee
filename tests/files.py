"""What a folder holds."""

from __future__ import annotations

from pathlib import Path


def content_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by its path in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
