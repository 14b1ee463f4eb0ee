from __future__ import annotations

from typing import Any

import pytest

from agents.runs.alarms import DIVERGED, DRIFTED
from benchmarks.alarms import ENVS, PROXIES, RATES, STARTS, fallen_at, plan, score


def run(rewards: list[float], valid: list[float], gold: list[float]) -> dict[str, Any]:
    log = [
        {"iteration": 4.0 * n, "monitor/reward": r, "monitor/popularity": 0.1, "valid/ndcg@20": v}
        for n, (r, v) in enumerate(zip(rewards, valid, strict=True))
    ]
    return {"log": log, "gold": gold}


@pytest.mark.parametrize(
    ("gold", "at"),
    [
        ([0.2, 0.3, 0.31, 0.29, 0.25], 3),
        ([0.2, 0.3, 0.2, 0.31], None),  # it recovers
        ([0.3, 0.1], 1),
        ([0.3, 0.299], None),
        ([0.3, 0.1, 0.3, 0.1], 3),  # from where on it stays below
    ],
)
def test_gold_has_fallen_where_it_stays_below_its_best(gold: list[float], at: int | None) -> None:
    assert fallen_at(gold) == at


def test_hits_false_alarms_and_leads_are_counted() -> None:
    late = run([1, 2, 3, 4], [0.3, 0.31, 0.31, 0.2], [0.3, 0.31, 0.2, 0.2])  # alarm at 3, gold fell at 2
    early = run([1, 2, 3, 4], [0.3, 0.2, 0.2, 0.2], [0.3, 0.31, 0.31, 0.2])  # alarm at 1, gold fell at 3
    false = run([1, 2, 3, 4], [0.3, 0.2, 0.2, 0.2], [0.3, 0.31, 0.32, 0.33])
    quiet = run([1, 2, 3, 4], [0.3, 0.31, 0.32, 0.33], [0.3, 0.31, 0.32, 0.33])
    found = score([late, early, false, quiet], DIVERGED)
    assert found == {"runs": 4, "over": 2, "hits": 2, "false": 1, "leads": [-1, 2]}
    assert score([late, early, false, quiet], None) == found
    assert score([late, early, false, quiet], DRIFTED)["hits"] == 0


def test_every_combination_is_one_cell() -> None:
    cells = plan(ENVS, 2)
    assert len({cell.key for cell in cells}) == len(cells)
    assert len(cells) == 2 * len(ENVS) * len(STARTS) * len(PROXIES) * len(RATES)
