from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write a file (text or bytes) into the test's folder."""

    def _write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write


@pytest.fixture
def is_here() -> Callable[[str], bool]:
    """Return whether a data home holds a known data set, or its official files."""
    from refit_env.data.catalog import CATALOG
    from refit_env.data.home import find_dataset, find_raw

    return lambda name: find_dataset(name) is not None or find_raw(CATALOG[name]) is not None
