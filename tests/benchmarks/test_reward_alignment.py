"""The derivatives of ``benchmarks.reward_alignment``, and its resumable rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from agents.experiments.records import read_records
from agents.training.closed_form_search import fitted_policy
from benchmarks import reward_alignment
from benchmarks.reward_alignment import Derivative, Row, derivative, run, tables
from refit_env.data import load_dataset

ENV = "ReFiT-Synthetic-v0"


def test_the_inner_product_is_that_of_the_matrices() -> None:
    draws = torch.Generator().manual_seed(0)
    one, other = (
        Derivative(torch.randn(n, 5, generator=draws), torch.randn(n, 5, generator=draws)) for n in (3, 4)
    )
    whole = [part.x.T @ part.g for part in (one, other)]
    assert one.dot(other) == pytest.approx(float((whole[0] * whole[1]).sum()), rel=1e-4)
    assert one.cosine(one) == pytest.approx(1.0)
    assert one.cosine(Derivative(one.x, 0 * one.g)) == 0.0


def test_a_reward_aligns_with_itself_and_opposes_its_negative() -> None:
    policy = fitted_policy(load_dataset("synthetic"), "linear", {"l2": 50.0}, 1, torch.device("cpu"))
    users = torch.arange(64)

    def of(reward: object, seed: int = 3) -> Derivative:
        found = derivative(ENV, policy, {"reward": reward, "relevance": "recent"}, users, seed)
        assert found is not None
        return found

    ndcg = of("ndcg")
    assert of({"ndcg": -1.0}).cosine(ndcg) == pytest.approx(-1.0, abs=1e-5)
    assert of({"racs_ndcg": 2.0}).cosine(of("racs_ndcg")) == pytest.approx(1.0, abs=1e-5)
    assert 0.3 < of("ndcg", seed=4).cosine(ndcg) < 0.999  # other noise, the same reward
    assert derivative(ENV, policy, {"reward": "r_cos"}, users, 0) is None  # no list reward


def test_rows_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("USERS", 32), ("HELD_OUT", 64), ("LISTED", 16)):
        monkeypatch.setattr(reward_alignment, name, value)
    rows = (Row("ndcg", "ndcg"), Row("cosine", "r_cos"), Row("ordered", "personal_frequency"))
    monkeypatch.setattr(reward_alignment, "ROWS", rows)
    records = tmp_path / "alignment.jsonl"
    run(ENV, records, 1e9)
    found = read_records(records)
    assert len(found) == 3 and "refused" in found[f"{ENV}_ordered"]
    assert len(found[f"{ENV}_ndcg"]["alignment"]) == 4 and found[f"{ENV}_cosine"]["alignment"] == []
    [table] = tables(records)
    assert [row[0] for row in table["rows"]] == ["ndcg", "cosine"] and table["rows"][1][1] == "-"
    before = records.read_bytes()
    run(ENV, records, 1e9)
    assert records.read_bytes() == before
