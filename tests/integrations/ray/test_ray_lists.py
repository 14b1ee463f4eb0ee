"""Ray Data: two workers make everyone's lists, the same file as one process makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

from agents.cli import main

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own are many


@pytest.fixture
def run(checkpoint: Path) -> Path:
    """The checkpoint as a run folder."""
    (checkpoint / "config.json").write_text(json.dumps({"command": "pretrain", "env": "ReFiT-Synthetic-v0"}))
    return checkpoint


def test_two_workers_write_the_file_that_one_process_writes(
    need: Callable[[str, str], ModuleType],
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ray = need("ray.data", "ray")
    assert ray is not None
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    one, other = tmp_path / "one.parquet", tmp_path / "ray.parquet"
    words = ["recommend", "--run", str(run), "--all-users", "--top", "7", "--device", "cpu"]
    assert main([*words, "--out", str(one)]) == 0
    assert main([*words, "--out", str(other), "--engine", "ray", "--workers", "2"]) == 0
    assert "lists of 800 users" in capsys.readouterr().out
    left, right = pq.read_table(one), pq.read_table(other)
    assert left.num_rows == 800 * 7 and left.schema.equals(right.schema, check_metadata=True)
    for column in ("user", "rank", "item"):
        assert left[column].equals(right[column])
    assert (left["score"].to_numpy() - right["score"].to_numpy()).max() < 1e-5
