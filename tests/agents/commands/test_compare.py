"""``refit compare`` end to end, on studies of seconds."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.cli import main
from agents.experiments.provenance import data_of_name
from agents.experiments.records import read_records
from refit_env.data import save_dataset, synthesize_sessions

ENV = "ReFiT-Synthetic-v0"
STUDY = """# A study of seconds
title: Tiny
seeds: 2
budget: {steps: 300, validations: 2}
variants:
  pretrained: {title: no training, make: pretrain}
  reinforce: {title: REINFORCE, make: finetune, parent: pretrained, algorithm: reinforce}
  grpo: {title: GRPO, make: finetune, parent: pretrained, algorithm: grpo, settings: {samples_per_user: 2}}
  elbo: {title: more, make: continue, parent: pretrained, work_of: reinforce, settings: {patience: 0}}
environments:
  ReFiT-Synthetic-v0:
    models:
      diffrec:
        options: {hidden: [16], num_steps: 5}
        pretrain: {epochs: 1}
        env: {reward: ndcg, relevance: recent}
        variants:
          reinforce: {users_per_batch: 16}
          grpo: {users_per_batch: 8}
tables:
  - {kind: rows, title: "On {env}", each: true, columns: [ndcg@20, ndcg@20 gain, steps]}
  - {kind: aggregate}
figure: true
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yml"
    path.write_text(STUDY)
    return path


def words(study: Path, *more: str) -> list[str]:
    return ["compare", str(study), "--seeds", "1", "--out", str(study.parent / "out"), *more]


def test_a_study_runs_goes_on_and_names_failures(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = study.parent / "out"
    study.write_text(STUDY.replace("users_per_batch: 8", "users_per_batch: 99"))  # more than the budget
    assert main(words(study, "--variants", "reinforce,grpo")) == 1
    said = capsys.readouterr()
    assert "3 cells, 0 finished already" in said.err
    assert f"[2/3] {ENV} diffrec reinforce seed0: test NDCG@20" in said.err
    assert f"FAILED {ENV} diffrec grpo seed0: ValueError: one iteration needs 792" in said.err
    assert "1 of 3 cells failed" in said.err and "REINFORCE" in said.out  # the rest has its table
    assert (out / "errors" / f"{ENV}_diffrec_grpo_seed0.txt").exists()

    study.write_text(STUDY)
    shutil.rmtree(out / "runs")  # as in a clone, which has the records alone: the start is made again
    assert main(words(study, "--algorithms", "reinforce,grpo")) == 0  # the option's older name
    said = capsys.readouterr()
    assert "3 cells, 2 finished already" in said.err and f"[3/3] {ENV} diffrec grpo seed0" in said.err
    shown = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert shown == {"tiny.jsonl", "tiny.json", "tiny.png", "runs", "errors"}
    report = json.loads((out / "tiny.json").read_text())
    assert [row[0] for row in report["tables"][0]["rows"]] == ["no training", "REINFORCE", "GRPO"]
    assert report["command"] == f"refit compare {study} --variants reinforce,grpo --seeds 1"
    assert report["figure"] == "tiny.png" and "rows" not in report

    monkeypatch.setattr("agents.experiments.cells.Processes.begin", None)  # nothing may run any more
    assert main(words(study, "--rows", "reinforce,grpo", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tables"] == report["tables"] and set(found["over_environments"]) == {"reinforce", "grpo"}
    assert main(words(study, "--variants", "pretrained", "--json")) == 0
    assert "figure" not in json.loads(capsys.readouterr().out)  # no curve among what is shown

    assert main(words(study, "--variants", "reinforce", "--steps", "320")) == 2
    assert "reinforce.budget.steps was 300, now 320" in capsys.readouterr().err


@pytest.mark.usefixtures("cells_run_here")
def test_stale_cells_are_named_shown_and_made_again(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(words(study, "--variants", "pretrained")) == 0
    study.write_text(STUDY.replace("epochs: 1}", "epochs: 2}"))
    capsys.readouterr()
    assert main(words(study, "--variants", "pretrained")) == 2
    said = capsys.readouterr().err
    assert (
        "tiny.jsonl: " in said
        and "pretrained_seed0 is stale, pretrained.settings.epochs was 1, now 2." in said
    )
    assert "--redo measures it again" in said
    with monkeypatch.context() as patch:
        patch.setattr("agents.experiments.cells.Processes.begin", None)  # nothing may run
        assert main(words(study, "--finished")) == 0
        note = json.loads((study.parent / "out" / "tiny.json").read_text())["note"]
        assert "1 of its cells are stale" in note
    assert main(words(study, "--variants", "pretrained", "--redo")) == 0
    assert "1 stale cells: measured again" in capsys.readouterr().err
    assert "stale" not in json.loads((study.parent / "out" / "tiny.json").read_text())["note"]
    (record,) = read_records(study.parent / "out" / "tiny.jsonl").values()
    assert record["settings"]["pretrained"]["settings"]["epochs"] == 2
    assert len((study.parent / "out" / "tiny.jsonl").read_text().splitlines()) == 2  # appended


def test_tables_of_nothing_are_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(study, "--finished")) == 2
    assert "nothing is finished in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--variants", "reinforc"],
            "--variants 'reinforc' is no variant of tiny. Did you mean 'reinforce'?",
        ),
        (["--rows", "reinforc"], "--rows 'reinforc' is no variant of tiny. Did you mean 'reinforce'?"),
        (["--models", "difrec"], "--models 'difrec' is no model of tiny. Did you mean 'diffrec'?"),
        (["--env", "ReFiT-Synthetik-v0"], "--env ReFiT-Synthetik-v0: unknown"),
        (["--env", "ReFiT-Synthetik-v0"], "Did you mean 'ReFiT-Synthetic-v0'?"),
        (["--env", "ReFiT-Custom-v0"], "--env ReFiT-Custom-v0: ReFiT-Custom-v0 has no data set of its own"),
        (["--seeds", "0"], "--seeds must be >= 1"),
        (["--steps", "0"], "--steps must be >= 1"),
        (["--workers", "0"], "--workers must be >= 1"),
        (["--device", "gpu"], "--device must be one that torch"),
    ],
)
def test_mistakes(more: list[str], message: str, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(study, *more)) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.strip().splitlines()) == 1
    assert not (study.parent / "out").exists()


def test_a_file_cannot_hold_the_records(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study.parent / "out").write_text("mine")
    assert main(words(study)) == 2
    assert f"--out {study.parent / 'out'} is a file" in capsys.readouterr().err
    assert (study.parent / "out").read_text() == "mine"


def test_cells_whose_data_are_not_here_start_no_process(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFIT_DATA_HOME", str(study.parent / "empty"))
    monkeypatch.setattr("refit_env.data.home.cache_folder", lambda: study.parent / "empty")
    study.write_text(STUDY.replace("  ReFiT-Synthetic-v0:", "  ReFiT-Anime-v0:"))
    monkeypatch.setattr("agents.experiments.cells.Processes.begin", None)  # nothing may run
    assert main(words(study)) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    first = "failed: ReFiT-Anime-v0_diffrec_pretrained_seed0 and 3 more: data set 'anime' is not here: get"
    assert [line for line in lines if line.startswith("failed")] == [line for line in lines if first in line]
    assert lines[-1] == "4 of 4 cells failed; run the command again to retry"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(study, "--device", "cuda")) == 2
    assert "--device must be one that torch" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_study_on_a_gpu(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(study, "--device", "cuda", "--variants", "reinforce")) == 0
    report = json.loads((study.parent / "out" / "tiny.json").read_text())
    assert report["command"].endswith("--device cuda") and "on a GPU" in report["note"]


def test_what_can_be_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    out: Any = capsys.readouterr().out
    assert all(name in out for name in ("algorithms", "backbones", "fine-tuning", "search"))
    assert main(["compare"]) == 2
    assert main(["compare", "algorithm"]) == 2
    assert "Did you mean 'algorithms'?" in capsys.readouterr().err
    assert main(["compare", "none.yml"]) == 2
    assert "none.yml: there is no such file" in capsys.readouterr().err


ROWS = """title: Rows
seeds: 1
variants:
  popularity: {title: popularity, make: baseline, algorithm: popularity}
  pretrained: {title: start, make: pretrain}
  more: {title: + more, make: continue, parent: pretrained, settings: {epochs: 1}}
environments:
  ReFiT-Zhihu-v0:
    models:
      dreamrec: {options: {embedding: 8, num_steps: 5}, num_steps: 2, pretrain: {epochs: 1}}
tables:
  - {kind: leaderboard, title: "{env}", columns: [ndcg@20], each: true}
  - {kind: rows, title: "On {env}", each: true, columns: [ndcg@20, users sure]}
"""


@pytest.mark.usefixtures("cells_run_here")
def test_a_study_of_rows_keeps_whose_they_are_so_that_a_clone_without_data_draws_whole_sessions(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = replace(synthesize_sessions(num_sessions=200, num_items=30), name="zhihu")
    save_dataset(data, tmp_path / "home" / "zhihu")
    monkeypatch.setenv("REFIT_DATA_HOME", str(tmp_path / "home"))
    data_of_name.cache_clear()
    study.write_text(ROWS)
    out = study.parent / "out"
    assert main(words(study)) == 0
    tables = json.loads((out / "tiny.json").read_text())["tables"]
    assert all("Intervals over rows draw whole users or sessions" in table["note"] for table in tables)
    (record,) = [r for r in read_records(out / "tiny.jsonl").values() if "over_parent" in r]
    kept = (out / "row_groups.jsonl").read_text()
    assert record["over_parent"]["ndcg@20"]["groups"] == json.loads(kept)["groups"] < record["users"]

    shutil.rmtree(tmp_path / "home")
    data_of_name.cache_clear()
    assert main(words(study, "--finished")) == 0
    assert json.loads((out / "tiny.json").read_text())["tables"] == tables
    for other in ("", kept.replace(data.fingerprint, "0" * 64)):
        (out / "row_groups.jsonl").write_text(other)
        assert main(words(study, "--finished")) == 0
        board, rows = json.loads((out / "tiny.json").read_text())["tables"]
        assert (
            "Intervals of Zhihu draw each row alone" in board["note"] and board["rows"] != tables[0]["rows"]
        )
        assert rows == tables[1]  # as its record holds it
    data_of_name.cache_clear()
    capsys.readouterr()
