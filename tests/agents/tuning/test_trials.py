"""The record of a study: what is written is read again, a cut line is dropped, a damaged one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.runs.files import RunError
from agents.tuning.trials import BASELINE, CLOSED_FORM, Trial, TrialLog

ONE = Trial(CLOSED_FORM, "linear", {"l2": 5.0, "recency": "none"}, 0.25, {"ndcg@20": 0.25}, 1.5)
TWO = Trial(BASELINE, "ease", {"l2": 200.0}, 0.5, {"ndcg@20": 0.5}, 2.0, {"why": "floor"})


@pytest.fixture
def log(tmp_path: Path) -> TrialLog:
    log = TrialLog(tmp_path)
    for trial in (ONE, TWO):
        log.add(trial)
    return log


def test_what_was_written_is_read(log: TrialLog, tmp_path: Path) -> None:
    again = TrialLog(tmp_path)
    assert again.trials == log.trials == [ONE, TWO]
    assert again.seconds == 3.5
    assert again.best(CLOSED_FORM) == ONE and again.best(CLOSED_FORM, BASELINE) == TWO
    assert again.best(BASELINE, name="slim") is None and again.of(BASELINE, "ease") == [TWO]


def test_a_line_that_a_kill_cut_is_dropped(log: TrialLog, tmp_path: Path) -> None:
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:-9])
    again = TrialLog(tmp_path)
    assert again.trials == [ONE]
    again.add(TWO)
    assert log.path.read_bytes() == whole


@pytest.mark.parametrize("line", ['{"stage": 3}', "[]", "{", '{"stage": "baseline", "name": "ease"}'])
def test_a_damaged_line_is_named(log: TrialLog, tmp_path: Path, line: str) -> None:
    log.path.write_text(f"{line}\n" + log.path.read_text("utf-8"), "utf-8")
    with pytest.raises(RunError, match=r"trials\.jsonl line 1"):
        TrialLog(tmp_path, error=RunError)
