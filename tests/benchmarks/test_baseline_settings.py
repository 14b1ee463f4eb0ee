"""What searches of baselines chose is what the settings of the data sets state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.hyperparams.yaml_files import read_yaml
from benchmarks import baseline_settings


def search(value: float, trials: int = 2, **more: Any) -> dict[str, Any]:
    tried = [{"settings": {}, "value": 0.1, "seconds": 30.0}] * (trials - 1)
    tried += [{"settings": {"l2": 123.456}, "value": value, "seconds": 30.0}]
    record = {"baseline": "ease", "dataset": "tiny", "fingerprint": "f", "seed": 0, "metric": "ndcg@20"}
    return record | {"space": {}, "trials": tried} | more


def test_the_shipped_settings_are_what_the_searches_chose() -> None:
    assert baseline_settings.main(["--check"]) == 0


def test_searches_are_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(baseline_settings, "SEARCHES", tmp_path / "searches.jsonl")
    monkeypatch.setattr(baseline_settings, "FOLDER", tmp_path)
    monkeypatch.setattr(baseline_settings.read_searches, "__defaults__", (tmp_path / "searches.jsonl",))
    monkeypatch.setattr(baseline_settings.write_searches, "__defaults__", (tmp_path / "searches.jsonl",))
    (tmp_path / "tiny.yml").write_text(
        "diffrec:  # kept\n  env: {}\n# old\nbaselines:\n  slim: {l1: 2.0}  # as published\n"
    )
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "ease.json").write_text(json.dumps(search(0.2)))
    assert baseline_settings.main(["--check"]) == 0  # nothing is taken in yet
    assert baseline_settings.main([str(tuned)]) == 0 and baseline_settings.main(["--check"]) == 0
    text = (tmp_path / "tiny.yml").read_text()
    assert text.startswith("diffrec:  # kept\n") and "# old" not in text
    assert read_yaml(tmp_path / "tiny.yml")["baselines"] == {"ease": {"l2": 123.5}, "slim": {"l1": 2.0}}
    assert "slim: {l1: 2.0}  # as published\n" in text
    assert "# 2 trials, 1.0 min, ndcg@20 0.2000 (defaults 0.1000)" in text
    (tuned / "ease.json").write_text(json.dumps(search(0.3, trials=1)))  # fewer trials do not replace it
    assert baseline_settings.main([str(tuned)]) == 0
    assert (tmp_path / "tiny.yml").read_text() == text
    (tmp_path / "tiny.yml").write_text(text.replace("123.5", "124.0"))
    capsys.readouterr()
    assert baseline_settings.main(["--check"]) == 1
    assert "out of date: tiny.yml" in capsys.readouterr().err


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(baseline_settings.DataError, match="there is no search of a baseline"):
        baseline_settings.take_in([tmp_path], {})
    path = tmp_path / "searches.jsonl"
    path.write_text("{}\n")
    with pytest.raises(baseline_settings.DataError, match=f"{path.name} line 1: "):
        baseline_settings.read_searches(path)
