"""The table of a run before and after: its intervals in words and as shares of a bar."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from agents.reports.facts import ALONE, Facts, gain_in_words
from agents.reports.run_sections import comparison_rows


def facts(low: float | None, high: float | None) -> Facts:
    """A run whose NDCG@20 rose from .25 to .5."""
    gain = {"mean_difference": 0.25, "low": low, "high": high, "num_users": 1 if low is None else 9}
    metrics = {"before": {"ndcg@20": 0.25}, "after": {"ndcg@20": 0.5}, "paired_bootstrap": {"ndcg@20": gain}}
    return Facts(Path("run"), cast(Any, {}), cast(Any, metrics), [])


@pytest.mark.parametrize(
    ("low", "high", "text", "sure", "ends"),
    [
        (0.125, 0.5, "+0.1250 to +0.5000", "up", (62.5, 100.0)),
        (-0.5, 0.5, "-0.5000 to +0.5000", "", (0.0, 100.0)),
        (None, None, "-", "", (100.0, 100.0)),
    ],
)
def test_an_interval_is_sure_where_it_is_known_and_excludes_zero(
    low: float | None, high: float | None, text: str, sure: str, ends: tuple[float, float]
) -> None:
    (row,) = comparison_rows(facts(low, high))
    assert (row["interval"], row["sure"]) == (text, sure)
    assert (row["low"], row["high"]) == ends


def test_the_gain_of_one_user_has_no_interval() -> None:
    found = {"mean_difference": 0.25, "low": None, "high": None, "num_users": 1}
    assert gain_in_words(found) == f"Its gain over the start is +0.2500 ({ALONE})."
