from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.baselines import evaluate_baseline, names_for
from agents.cli import main
from refit_env.data import load_dataset, save_dataset, synthesize_sessions

ENV = ["--env", "ReFiT-Synthetic-v0"]


def test_json_is_what_was_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "ease.json"
    words = ["baseline", "ease", *ENV, "--settings", "l2=30", "--split", "valid", "--json", "--out", str(out)]
    assert main(words) == 0
    [report] = json.loads(capsys.readouterr().out)
    _, wanted = evaluate_baseline(load_dataset("synthetic"), "ease", {"l2": 30}, split="valid")
    assert report["metrics"] == wanted["metrics"] and report["settings"] == {"l2": 30}
    assert json.loads(out.read_text()) == [report]
    before = out.read_bytes()
    assert main(words) == 2 and out.read_bytes() == before
    assert f"--out {out} exists" in capsys.readouterr().err


def test_the_table_has_the_best_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["baseline", "popularity", "ease", *ENV]) == 0
    out = capsys.readouterr().out
    assert out.index("ease") < out.index("popularity")


def test_without_a_name_those_that_fit_are_listed(own_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["baseline", "--data", str(own_data)]) == 0
    assert capsys.readouterr().out.split() == names_for(load_dataset(str(own_data)))


def test_tuning_chooses_on_validation_and_goes_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="tuning needs the extra `tune`")
    words = ["baseline", "ease", "popularity", *ENV, "--tune", str(tmp_path), "--json", "--trials"]
    assert main([*words, "2"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main([*words, "4"]) == 0
    ease, popularity = json.loads(capsys.readouterr().out)
    tried = json.loads((tmp_path / "ease.json").read_text())["trials"]
    assert len(tried) == 4 and first[0]["tuning"]["trials"] == 2
    best = max(tried, key=lambda trial: trial["value"])
    assert ease["tuning"]["ndcg@20"] == best["value"]
    assert ease["settings"] == {"l2": best["settings"].get("l2", 200.0)}
    _, wanted = evaluate_baseline(load_dataset("synthetic"), "ease", ease["settings"])
    assert ease["metrics"] == wanted["metrics"] and popularity["tuning"]["trials"] == 1


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    for words, line in (
        (["eas", *ENV], "unknown baseline 'eas'. Did you mean 'ease'?"),
        (["item-knn", *ENV, "--settings", "shrnk=1"], "'item-knn' 'shrnk'. Did you mean 'shrink'?"),
        (["ease", "slim", *ENV, "--settings", "l2=1"], "--settings are those of one baseline; 2 are named"),
        (["ease", *ENV, "--settings", "l2=-1", "--tune", "x"], "--settings l2 must be"),
        (["ease", *ENV, "--settings", "l2=-5"], "error: --settings l2 must be > 0, found -5"),
        (["ease", *ENV, "--tune", __file__], f"--tune {__file__} is a file; a search needs a folder"),
        (["ease", "slim", "ease", *ENV], "baseline 'ease' is named twice"),
        (["ease", "--data", "synthetic"], "--env ReFiT-Synthetic-v0 has the data set of that name"),
        (["ease"], "say which environment"),
        (["ease", *ENV, "--trials", "5"], "error: --trials 5 is the budget of a search: pass --tune FOLDER"),
        (["ease", *ENV, "--minutes", "2"], "--minutes 2.0 is the budget of a search: pass --tune FOLDER"),
        (["ease", *ENV, "--tune", "x", "--trials", "0"], "error: --trials must be >= 1 and"),
        (["ease", *ENV, "--refit", "--split", "valid"], "measure it on 'test', not on 'valid'"),
    ):
        assert main(["baseline", *words]) == 2
        err = capsys.readouterr().err
        assert line in " ".join(err.split()) and "Traceback" not in err


def test_no_figure_is_cut_where_there_are_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_dataset(synthesize_sessions(num_sessions=60), tmp_path / "rows")
    assert main(["baseline", "popularity", "--data", str(tmp_path / "rows")]) == 0
    out = capsys.readouterr().out
    assert "…" not in out and "ndcg@20" in out and "recall@20" in out
