from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agents.baselines.tuning import load_optuna, tune_baseline
from refit_env.data import Dataset


def test_the_error_names_the_extra_and_nothing_is_written(
    small_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    wanted = r"needs Optuna, which is not installed: pip install 'refit-env\[tune\]'"
    with pytest.raises(ValueError, match=wanted):
        load_optuna()
    with pytest.raises(ValueError, match=wanted):
        tune_baseline(small_data, "ease", tmp_path / "runs" / "a.json")
    assert not list(tmp_path.iterdir())
