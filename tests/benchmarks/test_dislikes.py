"""The rows of the study of dislikes are measured once, and the controls use the same dislikes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import dislikes
from refit_env.data import Interactions, load_dataset, save_dataset, synthesize


def test_rows_are_measured_once_and_masks_use_train_dislikes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dislikes, "ITERATIONS", 2)
    monkeypatch.setattr(dislikes, "WEIGHTS", (1.0,))
    data = synthesize(num_users=40, num_items=30, num_clusters=2)
    seen = data.train.csr + data.valid.csr + data.test.csr
    free = [(user, item) for user in range(40) for item in range(30) if not seen[user, item]]
    parts = [Interactions.from_pairs(*zip(*free[first::9], strict=True), 40, 30) for first in range(3)]
    save_dataset(replace(data, dislikes=(parts[0], parts[1], parts[2])), tmp_path / "low")
    out = tmp_path / "rows.jsonl"
    rows = dislikes.run(str(tmp_path / "low"), out)
    assert [row["name"] for row in rows] == [
        "linear",
        "linear, masked",
        *(f"linear, subtracted, a = {a:g}" for a in dislikes.FACTORS),
        "REINFORCE, ndcg + 1 dislikes, masked",
    ]
    before = out.read_bytes()
    assert dislikes.run(str(tmp_path / "low"), out) == rows and out.read_bytes() == before
    stored = load_dataset(str(tmp_path / "low"))
    assert all(0 <= row["test/dislikes@20"] <= 1 for row in rows) and stored.dislikes is not None
    # Of thirty items the lists hold twenty: a mask of train dislikes makes room for held-out ones.
    assert rows[1]["test/dislikes@20"] > rows[0]["test/dislikes@20"]
