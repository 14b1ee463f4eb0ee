from __future__ import annotations

from itertools import pairwise

import pytest

from agents.runs.alarms import DIVERGED, DRIFTED, alarms


def row(iteration: int, reward: float, ndcg: float, popularity: float = 0.1) -> dict[str, float]:
    return {
        "iteration": float(iteration),
        "monitor/reward": reward,
        "monitor/popularity": popularity,
        "valid/ndcg@10": 0.5,
        "valid/ndcg@20": ndcg,
    }


def test_a_reward_that_rises_while_validation_falls_is_an_alarm_once() -> None:
    rows = [row(0, 0.1, 0.30), row(5, 0.2, 0.40), row(10, 0.3, 0.395), row(15, 0.4, 0.35), row(20, 0.5, 0.3)]
    [alarm] = alarms(rows)
    assert (alarm.kind, alarm.iteration) == (DIVERGED, 15)  # 0.395 is within 2 % of the best
    assert "from 0.2 to 0.4 since iteration 5" in alarm.text and "0.4000 to 0.3500" in alarm.text


@pytest.mark.parametrize(
    "rows",
    [
        [row(0, 0.1, 0.30), row(5, 0.2, 0.40), row(10, 0.3, 0.41)],  # both rise
        [row(0, 0.1, 0.30), row(5, 0.05, 0.20)],  # both fall: no proxy is optimised too far
        [row(0, 0.1, 0.30)],
        [],
        [{"iteration": 1.0, "reward/mean": 0.2}],  # a log of an earlier version
    ],
)
def test_a_healthy_or_short_log_has_no_alarm(rows: list[dict[str, float]]) -> None:
    assert alarms(rows) == []


def test_lists_of_much_more_popular_items_are_an_alarm_while_the_reward_rises() -> None:
    assert [a.kind for a in alarms([row(0, 0.1, 0.3), row(5, 0.2, 0.3, 0.13)])] == [DRIFTED]
    assert alarms([row(0, 0.1, 0.3), row(5, 0.2, 0.3, 0.11)]) == []
    assert alarms([row(0, 0.2, 0.3), row(5, 0.1, 0.3, 0.13)]) == []


def test_alarms_are_of_the_named_metric() -> None:
    rows = [row(0, 0.1, 0.30), row(5, 0.2, 0.20)]
    assert [alarm.kind for alarm in alarms(rows)] == [DIVERGED]
    assert alarms(rows, "valid/ndcg@10") == []


def test_a_longer_log_keeps_its_earlier_alarms() -> None:
    rows = [row(0, 0.1, 0.30), row(5, 0.2, 0.40), row(10, 0.3, 0.20), row(15, 0.1, 0.50), row(20, 0.4, 0.10)]
    seen = [alarms(rows[:end]) for end in range(len(rows) + 1)]
    for before, after in pairwise(seen):
        assert after[: len(before)] == before
