"""Tests of gold against proxy: the law, the best of n chains, and gold of a policy."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks import over_optimisation
from benchmarks.over_optimisation import (
    CHAINS,
    OPTIMISERS,
    best_of_n,
    gold_of,
    gold_value,
    law,
    tabulate,
    trained,
    without_known,
)
from refit_env.data import load_dataset
from refit_env.pretrained import load_policy


def test_the_law_of_the_agents_is_found_again() -> None:
    d = [0.0, 1.0, 3.0, 10.0, 30.0]
    gain = [0.0] + [x * (0.2 - 0.05 * math.log(x)) for x in d[1:]]
    a, b, explained, peak = law(d, gain, chains=False)
    assert (a, b, explained) == pytest.approx((0.2, 0.05, 1.0))
    assert peak == pytest.approx(math.exp(3))
    assert law([1.0, 2.0], [0.1, 0.2], chains=True)[3] == math.inf


def test_the_best_of_more_chains_has_a_higher_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_optimisation, "BEST_OF", (1, 8))
    data = load_dataset("synthetic")
    policy = load_policy("ReFiT-Synthetic-v0")
    policy.set_exploration(0.1)
    goal = {"reward": "ndcg", "relevance": "recent"}
    one, eight = best_of_n(policy, data, goal, gold_of(data), seed=0)
    assert one["d"] == 0.0
    assert eight["d"] == pytest.approx(math.sqrt(math.log(8) - 7 / 8))
    assert eight["proxy"] > one["proxy"]


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_each_optimiser_has_a_point_for_each_validation(
    optimiser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(over_optimisation, "ITERATIONS", 2)
    monkeypatch.setattr(over_optimisation, "EVERY", 1)
    data = load_dataset("synthetic")
    points = trained(load_policy("ReFiT-Synthetic-v0"), data, "ndcg", optimiser, gold_of(data), seed=0)
    assert [sorted(point) for point in points] == [["d", "gold", "proxy", "valid"]] * 3
    assert points[0]["d"] == 0.0 < points[1]["d"]


def test_gold_of_a_policy_leaves_out_what_the_user_knows() -> None:
    data = load_dataset("synthetic")
    users = torch.arange(3)
    scores = without_known(torch.zeros(3, data.num_items), users, data)
    known = (data.train.csr + data.valid.csr)[:3].toarray() > 0
    assert torch.equal(torch.isinf(scores), torch.as_tensor(known))
    assert 0.3 < gold_value(load_policy("ReFiT-Synthetic-v0"), data, gold_of(data)) < 1.0


def test_the_table_has_a_row_for_each_optimiser() -> None:
    points = {"d": [0.0, 1.0, 2.0], "proxy": [0.1, 0.2, 0.3], "gold": [0.5, 0.6, 0.4]}
    found = {f"racs_{seed}": dict.fromkeys((CHAINS, *OPTIMISERS), points) for seed in (0, 1)}
    table = tabulate(found)
    assert [row[0] for row in table] == [f"racs: {name}" for name in (CHAINS, *OPTIMISERS)]
    assert table[0][1:6] == ["0.100 -> 0.300", "0.500", "0.600", "", "0.400"]  # records without validation
    validated = {key: dict.fromkeys(got, points | {"valid": [0.2, 0.1, 0.3]}) for key, got in found.items()}
    assert tabulate(validated)[0][1:6] == ["0.100 -> 0.300", "0.500", "0.600", "0.400", "0.400"]
    assert table[0][-1] == "2"
