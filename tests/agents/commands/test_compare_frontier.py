"""``refit compare`` of a study of fronts, end to end, on seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.cli import main
from agents.experiments.frontier import plan_fronts, read_front_study
from agents.experiments.frontier_cells import known_users
from agents.experiments.records import read_records, staleness
from agents.experiments.shipped import study_path
from refit_env.data import load_dataset
from refit_env.settings import plain

STUDY = """# Fronts of seconds
kind: frontier
title: Tiny fronts
seeds: 1
goals: [coverage@20, gini@20, calibration@20]
rerank: {popularity_penalty: [0.1, 0.3], spread: [0.3]}
on_top: {mmr: [0.5]}
on_top_at: [4]
tuned: {reward: {ndcg: 1}}
runs:
  coverage: {reward: {ndcg: 1, coverage: 1}, start: penalised}
supervised:
  weighted:
    algorithm: rwr
    reward: {ndcg: 1, coverage: 1}
    settings: {weighting: exp_reward, credit: episode}
environments:
  ReFiT-Synthetic-v0:
    options: {l2: 50}
    starts: {penalised: {popularity_penalty: 0.01}}
    relevance: recent
    settings: {iterations: 4, eval_every: 2, users_per_batch: 64, exploration_std: 0.02}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yml"
    path.write_text(STUDY)
    return path


@pytest.mark.usefixtures("cells_run_here")
def test_a_study_of_fronts_runs_and_draws(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = study.parent / "out"
    words = ["compare", str(study), "--workers", "1", "--out", str(out)]
    assert main(words) == 0
    assert "area" in capsys.readouterr().out
    report = json.loads((out / "tiny.json").read_text())
    [table] = report["tables"]
    assert [row[0] for row in table["rows"]] == ["coverage@20", "gini@20", "calibration@20"]
    assert report["figure"] == "tiny.png" and (out / "tiny.png").stat().st_size > 10_000
    assert "ReFiT-Synthetic-v0: runs are above the best re-ranker for" in report["note"]
    records = {record["variant"]: record for record in read_records(out / "tiny.jsonl").values()}
    assert set(records) == {"post-hoc", "tuned", "coverage", "weighted", "fronts"}
    assert [p["name"] for p in records["post-hoc"]["points"]] == [
        "start", "popularity_penalty 0.1", "popularity_penalty 0.3", "spread 0.3",
    ]  # fmt: skip
    assert [p["name"] for p in records["coverage"]["points"]] == ["0", "2", "4", "coverage + mmr 0.5"]
    start, penalised = records["post-hoc"]["points"][0], records["coverage"]["points"][0]
    assert start["test"]["gini@20"] > penalised["test"]["gini@20"]  # the run begins with a penalty
    goals = records["fronts"]["goals"]["gini@20"]
    assert goals["areas"]["all re-rankers"] >= goals["areas"][goals["best"]] - 1e-9
    assert goals["areas"]["all runs, re-ranked"] >= 0 and len(goals["over_all"]) == 60
    assert (
        goals["areas"]["all supervised"] == goals["areas"]["weighted"] >= 0
        and len(goals["over_supervised"]) == 60
    )
    assert table["columns"][7] == "supervised" and table["columns"][-1] == "runs less supervised"
    assert main([*words, "--finished", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"] == report["tables"]


def test_users_who_come_later_are_in_no_training(study: Path) -> None:
    [first, *_] = plan_fronts(read_front_study(study), study.parent / "x.jsonl")
    whole = load_dataset("synthetic")
    known, later = known_users(whole, first.arguments[0])
    assert later is not None and later.size == round(0.2 * whole.num_users)
    for split in ("train", "valid", "test"):
        assert not np.isin(known.split(split).users, later).any()
        assert len(known.split(split)) + np.isin(whole.split(split).users, later).sum() == len(
            whole.split(split)
        )


def test_what_decides_a_cell_is_in_its_settings(study: Path) -> None:
    cells = {c.key: c for c in plan_fronts(read_front_study(study), study.parent / "x.jsonl")}
    run = cells["ReFiT-Synthetic-v0_coverage_seed0"].settings
    assert run["options"] == {"l2": 50, "popularity_penalty": 0.01} and run["reward"] == {
        "ndcg": 1,
        "coverage": 1,
    }
    fronts = cells["ReFiT-Synthetic-v0_fronts_seed0"]
    assert set(fronts.needs) == {key for key in cells if "fronts" not in key}
    assert cells["ReFiT-Synthetic-v0_weighted_seed0"].settings["algorithm"] == "rwr"
    assert "algorithm" not in run and "supervised" not in run  # as in records from before there were such


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "kind: frontier",
            "kind: frontir",
            "kind must be variants or frontier; found 'frontir'. Did you mean",
        ),
        ("gini@20", "ginni@20", "goals: unknown metric 'ginni@20'. Did you mean 'gini@20'?"),
        ("spread:", "spreed:", "rerank: unknown re-ranker 'spreed'. Did you mean 'spread'?"),
        ("[0.1, 0.3]", "[0.1, -3]", "rerank, popularity_penalty: strength must be >= 0, found -3"),
        ("start: penalised", "start: penalized", "unknown start 'penalized'. Did you mean 'penalised'?"),
        (
            "iterations: 4",
            "iteration: 4",
            "unknown setting of reinforce 'iteration'. Did you mean 'iterations'?",
        ),
        (
            "algorithm: rwr",
            "algorithm: rwrr",
            "supervised, weighted: unknown algorithm 'rwrr'. Did you mean 'rwr'",
        ),
        (
            "weighted:",
            "coverage:",
            "coverage is among the runs and among the supervised: give one another name",
        ),
        ("l2: 50", "l3: 50", "v0, options: l3 is no setting of backbone 'linear'"),
        ("popularity_penalty: 0.01", "l2: -1", "v0, starts, penalised: l2 must be "),
        ("  coverage: {", "  mmr: {", "runs: mmr is a re-ranker: give the run another name"),
        ("relevance: recent", "runs: [coverge]", "v0, runs: unknown run 'coverge'. Did you mean 'coverage'?"),
        ("ReFiT-Synthetic-v0", "ReFiT-Synthtic-v0", "Did you mean 'ReFiT-Synthetic-v0'?"),
    ],
)
def test_what_is_wrong_in_the_file_is_one_line(
    old: str, new: str, said: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study.write_text(STUDY.replace(old, new))
    assert main(["compare", str(study), "--out", str(study.parent / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


def test_options_of_other_studies_are_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(study), "--models", "diffrec"]) == 2
    assert "--models is not for tiny" in capsys.readouterr().err
    assert main(["compare", str(study), "--variants", "coverge"]) == 2
    assert "unknown variant of tiny 'coverge'. Did you mean 'coverage'?" in capsys.readouterr().err


def test_the_shipped_study_is_read_and_its_cells_have_keys_of_their_own(tmp_path: Path) -> None:
    study = read_front_study(study_path("frontier"))
    assert len(study.environments) >= 3 and len(study.goals) >= 5
    cells = plan_fronts(study, tmp_path / "x.jsonl")
    assert len({cell.key for cell in cells}) == len(cells) >= 3 * len(study.seeds) * len(study.runs)


def test_a_place_has_the_runs_that_it_names_or_the_usual_ones(study: Path) -> None:
    more = "  diverse: {reward: {marginal_diversity: 1}, usual: false}\nsupervised:"
    place = "  ReFiT-Synthetic-v0, for diversity: {relevance: recent, runs: [diverse]}\n"
    study.write_text(STUDY.replace("supervised:", more) + place)
    found = plan_fronts(read_front_study(study), study.parent / "x.jsonl")
    kinds = {name: [c.arguments[0].kind for c in found if c.arguments[0].place == name] for name in
             ("ReFiT-Synthetic-v0", "ReFiT-Synthetic-v0, for diversity")}  # fmt: skip
    assert list(kinds.values()) == [
        ["post-hoc", "tuned", "coverage", "weighted", "fronts"],
        ["post-hoc", "tuned", "diverse", "fronts"],
    ]
    compared = found[-1]
    assert compared.settings["runs"] == ("diverse",) and "supervised" not in compared.settings
    assert compared.needs == tuple(cell.key for cell in found[-4:-1])


def test_a_setting_of_the_agent_that_was_added_later_counts_as_its_default(study: Path) -> None:
    cells = plan_fronts(read_front_study(study), study.parent / "x.jsonl")
    run = next(cell for cell in cells if cell.settings["agent"] is not None)
    settings = plain(dict(run.settings))
    assert settings["agent"].pop("chunks") == 1  # a record from before there was such a setting
    assert staleness({"settings": settings}, replace(run, data="")) == []
    settings["agent"]["chunks"] = 2
    assert staleness({"settings": settings}, replace(run, data="")) == ["agent.chunks was 2, now 1"]
