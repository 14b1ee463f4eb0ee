"""Shared fixtures: the real data sets are used where they are, and skipped with a reason where not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def data_home() -> Path:
    """The folder with the real data sets, or a skip that says which variable to set."""
    home = Path(os.environ.get("REFIT_DATA_HOME", ""))
    if "REFIT_DATA_HOME" not in os.environ or not home.is_dir():
        pytest.skip("no real data: set REFIT_DATA_HOME to a folder with canonical data sets")
    return home
