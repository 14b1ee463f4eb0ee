"""Leaderboards: the best first, each row paired over users with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.experiments.leaderboard import leaderboard_table, over_best
from agents.experiments.per_user import pack
from agents.experiments.summary import Runs
from refit_env.evaluation.statistics import paired_bootstrap

USERS = 400
COIN = np.random.default_rng(0).integers(0, 2, (3, USERS))


def group(model: str, variant: str, *seeds: Any) -> Runs:
    records = tuple({"key": "k", "seed": n, "per_user": {"ndcg@20": pack(v)}} for n, v in enumerate(seeds))
    return Runs("ReFiT-ML1M-v0", model, variant, variant.upper(), "", records)


def entry(runs: Runs, mean: float) -> dict[str, Any]:
    interval = {"mean": mean, "low": None, "high": None}
    out = {"env": runs.env_id, "model": runs.model, "title": runs.title, "budget": [], "device": "cpu"}
    return out | {"test": {"ndcg@20": interval}, "seconds": 3.0}


def test_rows_are_ordered_by_their_means_with_their_differences_from_the_best() -> None:
    low, high = group("", "ease", COIN[0] / 2), group("diffrec", "rl", (COIN[0] + COIN[1]) / 2, COIN[1])
    entries = [entry(low, 0.25), entry(high, 0.5)]
    table = leaderboard_table("Best", "model", ("ndcg@20", "seconds"), [low, high], entries, "test")
    assert table.columns == ("model", "NDCG@20", "seconds", "from the best, paired 95 %")
    assert [line[0] for line in table.rows] == ["diffrec: RL", "EASE"] and table.rows[0][3] == ""
    expected = paired_bootstrap((COIN[0] + COIN[1]) / 4 + COIN[1] / 2, COIN[0] / 2)
    assert table.rows[1][3].startswith(f"{expected.mean_difference:+.4f} [{expected.low:+.4f}, ")
    assert table.rows[1][3].endswith(" *")


def test_rows_without_values_of_single_users_have_no_difference() -> None:
    old = Runs("ReFiT-ML1M-v0", "", "old", "OLD", "", ({"key": "k", "seed": 0},))
    best = group("", "ease", COIN[0])
    assert over_best(old, best) is None and over_best(best, best) is None
    assert over_best(group("", "few", COIN[0][:9]), best) is None  # other users
