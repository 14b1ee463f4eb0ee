"""``refit compare backbones`` end to end, on runs of seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.algorithms.configs import ReinforceConfig
from agents.cli import main
from agents.experiments.backbones import MORE_SEEDS, TWELVE, more_training, plan
from agents.experiments.cells import do_cell
from agents.hyperparams import backbones as hyperparams
from agents.hyperparams.backbones import Tuned, tuned
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import pretrain
from refit_env.data import Dataset, load_dataset
from refit_env.evaluation.ranking import evaluate
from refit_env.registration import env_ids

ENV = "ReFiT-Synthetic-v0"
OPTIONS = {"hidden": (16,), "num_steps": 5}
TINY = Tuned(
    "diffrec",
    PretrainConfig(epochs=1),
    ReinforceConfig(iterations=2, users_per_batch=16, eval_every=1),
    {"reward": "ndcg", "relevance": "recent"},
    options=OPTIONS,
)


def words(out: Path, *more: str) -> list[str]:
    return ["compare", "backbones", "--env", ENV, "--seeds", "1", "--out", str(out), *more]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hyperparams.TUNED, ENV, {"diffrec": TINY})


def test_a_comparison_runs_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(words(tmp_path, "--rows", "reinforce")) == 0
    told = capsys.readouterr()
    assert "2 cells, 0 finished already" in told.err
    assert f"[1/2] {ENV} diffrec pretrained seed0: test NDCG@20" in told.err
    assert main(words(tmp_path)) == 0
    told = capsys.readouterr()
    assert "3 cells, 2 finished already" in told.err and f"[3/3] {ENV} diffrec elbo seed0" in told.err
    assert {path.name for path in tmp_path.iterdir()} == {"cells", "runs", "comparison.json"}
    report = json.loads((tmp_path / "comparison.json").read_text())
    models = report["tables"][1]["rows"]
    assert [row[0] for row in models] == [
        "Synthetic, diffrec", "Synthetic, diffrec + REINFORCE",
        "Synthetic, diffrec + more training, same work",
    ]  # fmt: skip
    cell = json.loads((tmp_path / "cells" / f"{ENV}_diffrec_reinforce_seed0.json").read_text())
    assert cell["settings"]["config"]["hidden"] == [16]
    assert set(cell["slices"]) == {"cold", "popular", "tail"} and cell["cost"]["peak_memory_mib"] > 0
    mean = cell["over_pretrained"]["ndcg@20"]["mean_difference"]
    start = json.loads((tmp_path / "cells" / f"{ENV}_diffrec_pretrained_seed0.json").read_text())
    assert cell["test"]["ndcg@20"] - start["test"]["ndcg@20"] == pytest.approx(mean, abs=1e-6)

    monkeypatch.setattr("agents.experiments.cells._begin", None)  # nothing may run any more
    assert main(words(tmp_path, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["models"] == report["models"]


def test_tables_of_what_is_finished_run_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(words(tmp_path, "--rows", "pretrained")) == 0
    monkeypatch.setattr("agents.experiments.cells._begin", None)
    assert main(words(tmp_path, "--finished")) == 0
    report = json.loads((tmp_path / "comparison.json").read_text())
    assert [row[0] for row in report["tables"][1]["rows"]] == ["Synthetic, diffrec"]
    capsys.readouterr()
    assert main(words(tmp_path / "none", "--finished")) == 2
    assert "nothing is finished" in capsys.readouterr().err


def test_changed_settings_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(words(tmp_path, "--rows", "pretrained")) == 0
    changed = Tuned("diffrec", PretrainConfig(epochs=2), options=OPTIONS)
    monkeypatch.setitem(hyperparams.TUNED, ENV, {"diffrec": changed})
    assert main(words(tmp_path, "--rows", "pretrained")) == 2
    told = capsys.readouterr().err
    assert "pretrained_seed0.json: stale, pretrain.epochs was 1, now 2. --redo measures it again" in told
    assert main(words(tmp_path, "--rows", "pretrained", "--finished")) == 0
    note = json.loads((tmp_path / "comparison.json").read_text())["note"]
    assert "1 of its cells are older records" in note
    assert main(words(tmp_path, "--rows", "pretrained", "--redo")) == 0
    assert "1 stale cells: measured again" in capsys.readouterr().err
    assert "older records" not in json.loads((tmp_path / "comparison.json").read_text())["note"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--models", "difrec"], "Did you mean 'diffrec'?"),
        (["--rows", "reinforc"], "Did you mean 'reinforce'?"),
        (["--env", "ReFiT-Synthetik-v0"], "Did you mean 'ReFiT-Synthetic-v0'?"),
        (["--seeds", "0"], "--seeds must be >= 1"),
        (["--workers", "0"], "--workers must be >= 1"),
        (["--device", "gpu"], "--device must be one that torch"),
    ],
)
def test_mistakes(more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path / "new", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path, "--device", "cuda")) == 2
    assert "--device must be one that torch" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_comparison_on_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path, "--device", "cuda")) == 0
    report = json.loads((tmp_path / "comparison.json").read_text())
    assert report["title"].endswith("on a GPU") and report["command"].endswith("--device cuda")
    assert all(row[-1].endswith(" G") for row in report["tables"][1]["rows"])


def test_what_needs_a_gpu_is_planned_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hyperparams.TUNED, ENV, {"diffrec": TINY, "large": replace(TINY, gpu=True)})

    def planned(**told: Any) -> set[str]:
        return {cell.arguments[0].model for cell in plan((ENV,), tmp_path, **told)}

    assert planned() == {"diffrec"}
    assert planned(large=True) == {"diffrec", "large"}
    assert planned(models=["large"]) == {"large"}


def test_the_plan_goes_seed_by_seed_and_each_row_after_its_needs(tmp_path: Path) -> None:
    cells = plan(("ReFiT-ML1M-v0", ENV), tmp_path)
    keys = [cell.key for cell in cells]
    assert [key.rsplit("seed", 1)[1] for key in keys] == sorted(key.rsplit("seed", 1)[1] for key in keys)
    assert all(keys.index(need) < place for place, cell in enumerate(cells) for need in cell.needs)
    assert sum("ML1M-v0_diffrec_pretrained" in key for key in keys) == MORE_SEEDS["ReFiT-ML1M-v0"]


def test_the_control_trains_as_before_but_never_stops_early() -> None:
    told = Tuned("diffrec", PretrainConfig(patience=3), more_rate=1e-4, more_every=7)
    control = more_training(told)
    assert (control.learning_rate, control.patience, control.eval_every) == (1e-4, 0, 7)
    assert control.objective == told.pretrain.objective and control.select_on == "ndcg@20"


def test_a_reward_model_stands_beside_what_was_rewarded_by_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = replace(
        TINY, env={"reward": {"ease": 1.0}, "relevance": "holdout", "reward_kwargs": {"l2": 300.0}}
    )
    monkeypatch.setitem(hyperparams.TUNED, ENV, {"diffrec": told})
    assert main(words(tmp_path, "--rows", "reward")) == 0
    assert "2 cells" in capsys.readouterr().err  # the pretrained model, and the reward's
    report = json.loads((tmp_path / "comparison.json").read_text())
    assert report["tables"][1]["rows"][1][0] == "Synthetic, diffrec: the reward model alone"
    cell = json.loads((tmp_path / "cells" / f"{ENV}_diffrec_reward_seed0.json").read_text())
    rows = load_dataset("synthetic").train.csr.toarray().astype(float)
    inverse = np.linalg.inv(rows.T @ rows + 300.0 * np.eye(rows.shape[1]))
    scores = torch.from_numpy(rows @ ((1 - np.eye(len(inverse))) * inverse / -np.diag(inverse)))
    test = evaluate(lambda users: scores[users], load_dataset("synthetic"), "test").means()
    assert cell["test"]["ndcg@20"] == pytest.approx(test["ndcg@20"], abs=1e-3)
    assert "reinforce" not in cell["settings"]


def test_a_distillation_shares_what_it_can_with_reinforce(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = replace(TINY, env={"reward": "ease", "relevance": "holdout", "reward_kwargs": {"l2": 300.0}})
    monkeypatch.setitem(hyperparams.TUNED, ENV, {"diffrec": told})
    assert main(words(tmp_path, "--rows", "distill")) == 0
    report = json.loads((tmp_path / "comparison.json").read_text())
    assert report["tables"][1]["rows"][1][0] == "Synthetic, diffrec + distillation of the reward"
    assert report["tables"][0]["rows"] == []  # a task has REINFORCE's gain
    cell = json.loads((tmp_path / "cells" / f"{ENV}_diffrec_distill_seed0.json").read_text())
    settings = cell["settings"]["distill"]
    for name in ("iterations", "users_per_batch", "learning_rate", "eval_every", "relevance_draws"):
        assert settings[name] == getattr(told.reinforce, name)
    assert "samples_per_user" not in cell["settings"]
    assert cell["settings"]["env_kwargs"]["reward"] == "ease"
    assert set(cell["over_pretrained"]) == {"ndcg@10", "ndcg@20", "recall@10", "recall@20"}


@pytest.mark.parametrize(
    "goal",
    [
        {"reward": "ndcg", "relevance": "validation"},
        {"reward": "racs", "relevance": "recent", "reward_kwargs": {"neighbor_relevance": "validation"}},
    ],
)
def test_the_control_is_told_the_validation_items_that_the_reward_was(
    goal: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = replace(TINY, env=goal)
    trained_on: list[Dataset] = []

    def watched(dataset: Dataset, *args: Any, **kwargs: Any) -> Any:
        trained_on.append(dataset)
        return pretrain(dataset, *args, **kwargs)

    monkeypatch.setattr("agents.experiments.training.pretrain", watched)
    cells = plan([ENV], tmp_path, seeds=1, settings={ENV: {"diffrec": told}})
    for cell in cells:
        do_cell(cell, tmp_path / "cells")
    whole, more = trained_on
    gained = np.flatnonzero(more.train.counts - whole.train.counts)
    assert 0.4 < len(gained) / np.count_nonzero(whole.valid.counts) < 0.6
    assert not more.valid.counts[gained].any()  # they select nothing any more
    assert (more.train.counts + more.valid.counts == whole.train.counts + whole.valid.counts).all()
    assert cells[-1].settings is not None and "validation items" in cells[-1].settings["more_data"]


def test_every_tuned_model_is_of_a_registered_environment() -> None:
    for env_id in hyperparams.TUNED:
        assert env_id in env_ids()
        assert tuned(env_id).backbone == next(iter(hyperparams.TUNED[env_id].values())).backbone
    assert set(MORE_SEEDS) < set(TWELVE)
