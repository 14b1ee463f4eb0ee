"""Settings of all tests: the real data sets, or a skip with a reason, and the same environment everywhere."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(  # a slow machine is not a failure
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")

# A shell ignores these signals in its background processes, and so does nohup.
for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if signal.getsignal(number := getattr(signal, name, signal.SIGINT)) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture
def data_home() -> Path:
    """Return the folder with the real data sets, or skip the test, naming the variable to set."""
    home = Path(os.environ.get("REFIT_DATA_HOME", ""))
    if "REFIT_DATA_HOME" not in os.environ or not home.is_dir():
        pytest.skip("no real data: set REFIT_DATA_HOME to a folder with canonical data sets")
    return home
