from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def assert_alike() -> Callable[[Any, Any], None]:
    """Compare JSON values; the last digits of floats depend on the processor and the libraries."""

    def check(found: Any, published: Any, path: str = "") -> None:
        if isinstance(published, dict):
            assert list(found) == list(published), path
            for key in published:
                check(found[key], published[key], f"{path}.{key}")
        elif isinstance(published, list):
            assert len(found) == len(published), path
            for place, pair in enumerate(zip(found, published, strict=True)):
                check(*pair, f"{path}[{place}]")
        elif isinstance(published, float):
            assert found == pytest.approx(published, rel=1e-9, abs=1e-12), path
        else:
            assert found == published, path

    return check
