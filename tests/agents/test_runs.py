from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.runs import RunError, RunFolder

SETTINGS = {"env": "ReFiT-Synthetic-v0", "seed": 3}


def finished(path: Path) -> RunFolder:
    run = RunFolder.create(path, "pretrain", SETTINGS)
    for name in ("policy.safetensors", "policy.json", "log.csv", "curve.png", "pretrain.safetensors"):
        (path / name).write_text("x")
    (path / "tb").mkdir()
    (path / "tb" / "events.out.tfevents.1").write_text("x")
    run.finish({"ndcg@20": 0.25, "gain": float("nan"), "list": [float("inf"), 1]})
    return run


def test_a_new_run_says_how_to_repeat_it(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "a" / "b", "pretrain", SETTINGS)
    assert run.exists() and not run.finished()
    assert run.config["command"] == "pretrain" and run.config["seed"] == 3
    assert run.config["made_with"]["torch"].startswith("2.")
    assert run.describe() == "pretrain of ReFiT-Synthetic-v0, seed 3, not finished"


def test_a_finished_run_has_metrics_and_no_resume_state(tmp_path: Path) -> None:
    run = finished(tmp_path)
    assert run.finished() and not (tmp_path / "pretrain.safetensors").exists()
    assert run.metrics == {"ndcg@20": 0.25, "gain": None, "list": [None, 1]}
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)


def test_a_run_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        RunError, match=r"holds a run already .pretrain of ReFiT-Synthetic-v0, seed 3, finished"
    ):
        RunFolder.create(tmp_path, "pretrain", SETTINGS)
    RunFolder.create(tmp_path, "finetune", SETTINGS, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "notes.txt"]  # others' files stay


def test_a_missing_run_names_what_is_missing(tmp_path: Path) -> None:
    finished(tmp_path / "elbo")
    with pytest.raises(RunError, match=r"no run folder .*elbu'. Runs in .*: elbo\."):
        RunFolder.open(tmp_path / "elbu")
    with pytest.raises(RunError, match="there is no folder"):
        RunFolder.open(tmp_path / "nowhere" / "elbo")
    (tmp_path / "elbo" / "policy.safetensors").unlink()
    with pytest.raises(RunError, match=r"policy\.safetensors missing\. It holds: config\.json"):
        RunFolder.open(tmp_path / "elbo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"config\.json, policy\.safetensors missing\. It holds: nothing"):
        RunFolder.open(tmp_path / "empty")


def test_a_file_is_not_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        RunFolder.create(tmp_path / "file", "pretrain", SETTINGS)
    with pytest.raises(RunError, match="no run folder"):
        RunFolder.open(tmp_path / "file")
