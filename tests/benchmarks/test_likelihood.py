"""Tests of the likelihood table: which vectors are measured, and the deviation that validation chooses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import likelihood
from benchmarks.likelihood import DEVIATIONS, ROWS, measured, tabulate, vectors
from refit_env.backbones import backbone_for
from refit_env.backbones.closed_form import ClosedForm
from refit_env.data import load_dataset
from refit_env.policy import DiffusionPolicy


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    data = load_dataset("synthetic")
    backbone = backbone_for(data, "linear", {"num_steps": 1}, seed=0)
    assert isinstance(backbone, ClosedForm)
    backbone.fit(data)
    return DiffusionPolicy(backbone, 1)


def test_the_vectors_are_the_train_rows_with_the_items_of_the_split(policy: DiffusionPolicy) -> None:
    data = load_dataset("synthetic")
    own, later = (vectors(policy, data, which, seed=0) for which in ("train", "test"))
    assert torch.equal(own.x0, own.start)
    added = later.x0 - later.start
    assert torch.all((added == 0) | (added == 1))
    assert torch.all(added.sum(1) >= 1)


def test_the_fitted_deviation_is_the_root_mean_square_error(policy: DiffusionPolicy) -> None:
    """For one exact step the best deviation is known; the grid holds values on both sides of it."""
    data = load_dataset("synthetic")
    found = measured(policy, data, 0, 0.05)
    goal = vectors(policy, data, "valid", 0)
    with torch.no_grad():
        error = float((goal.x0 - policy.mean(goal.start, 0)).square().mean().sqrt())
    nearest = sorted(DEVIATIONS, key=lambda std: math.log(std) + error**2 / (2 * std**2))[0]
    assert found["fitted_std"] == nearest
    assert found["test_fitted"] > found["test_exploration"]
    assert found["train_exploration_effective"] == pytest.approx(1.0)


def test_the_table_has_means_over_seeds(policy: DiffusionPolicy) -> None:
    one = measured(policy, load_dataset("synthetic"), 0, 0.05)
    two = one | {"ndcg": one["ndcg"] + 0.1}
    found = {
        "ml-1m_linear_0": {"rows": dict.fromkeys(ROWS, one)},
        "ml-1m_linear_1": {"rows": dict.fromkeys(ROWS, two)},
    }
    table = tabulate(found)
    assert [row[0] for row in table] == [f"ml-1m, linear: {row}" for row in ROWS]
    assert table[0][1] == f"{one['ndcg'] + 0.05:.4f}"
    assert table[0][-1] == "2" and table[0][7] == ""
    assert table[1][7:10] == ["+0.0000 ± 0.0000"] * 3
    del found["ml-1m_linear_0"]["rows"][ROWS[-1]]  # a record from before there was this row
    assert tabulate(found)[-1][1] == f"{two['ndcg']:.4f}" and tabulate(found)[-1][-1] == "1"
    assert tabulate(found)[:-1] == table[:-1]


def test_finished_cells_are_tabulated_without_their_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"ndcg": 0.1, "fitted_std": 0.2, "test_fitted_effective": 1.0}
    rows |= {f"{split}_{name}": 0.3 for split in ("train", "test") for name in ("exploration", "fitted")}
    record = {"key": "ml-1m_linear_0", "settings": {}, "rows": dict.fromkeys(ROWS, rows), "work": 1.0}
    (tmp_path / "likelihood.jsonl").write_text(json.dumps(record) + "\n")
    shown: dict[str, Any] = {}
    monkeypatch.setattr(likelihood, "CELLS", tmp_path / "likelihood.jsonl")
    monkeypatch.setattr(likelihood, "finish_cells", None)  # nothing is measured
    monkeypatch.setattr(likelihood, "report", lambda name, **given: shown.update(given))
    monkeypatch.setattr("sys.argv", ["likelihood", "--finished"])
    monkeypatch.setenv("REFIT_DATA_HOME", str(tmp_path))
    likelihood.main()
    assert [row[0] for row in shown["rows"]] == [f"ml-1m, linear: {name}" for name in ROWS]
