"""``refit refit``: what a run chose, on train and validation items together."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.algorithms.reinforce import Reinforce
from agents.cli import main
from agents.commands import finetune, pretrain
from agents.commands.options import as_words
from agents.runs.folder import RunFolder
from agents.training.closed_form import is_closed_form
from agents.training.closed_form_search import fitted_policy
from agents.training.pretrainer import Pretrainer
from agents.training.weight_interpolation import between
from refit_env.backbones import backbone_class, backbone_for, backbone_names
from refit_env.checkpoint import load_checkpoint
from refit_env.data import Dataset, load_dataset, save_dataset, synthesize
from refit_env.policy import DiffusionPolicy
from tests.agents.commands.fine_tuning import words
from tests.files import content_of

QUIET = ["--quiet", "--device", "cpu"]


def again(run: Path, out: Path, *more: str) -> int:
    return main(["refit", "--run", str(run), "--out", str(out), *QUIET, *more])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run)[0]


def other_validation(data: Dataset) -> Dataset:
    """Train and validation items as train items, and test items as validation: made without the flag."""
    joined = data.learning_validation()
    return replace(data, train=joined.train, valid=data.test)


@pytest.fixture(scope="module")
def network(own_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DiffRec, whose best epoch is neither the first nor the last."""
    out = tmp_path_factory.mktemp("refit") / "diffrec"
    options = ["--backbone", "diffrec", "--backbone-options", "hidden=[16]", "num_steps=5", "--epochs", "40"]
    more = ["--learning-rate", "0.05", "--eval-every", "1"]
    assert main(["pretrain", "--data", str(own_data), "--out", str(out), *options, *more, *QUIET]) == 0
    return out


@pytest.fixture(scope="module")
def closed(own_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed form; tests must not change it."""
    out = tmp_path_factory.mktemp("refit") / "linear"
    fixed = ["--backbone-options", "recency=none", "score_power=0", "targets=row"]
    words = ["pretrain", "--data", str(own_data), "--backbone", "linear", *fixed, "--out", str(out), *QUIET]
    assert main(words) == 0
    return out


@pytest.fixture(scope="module")
def fitted(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its model, fitted again; tests must not change it."""
    out = tmp_path_factory.mktemp("refit") / "again"
    assert again(network, out) == 0
    return out


@pytest.fixture(scope="module")
def tuned_network(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("refit") / "rl"
    options = ["--reward", "racs", "--relevance", "holdout", "--anneal-lr", "--blends", "3"]
    assert main(words(network, out, *options, "--iterations", "8", "--eval-every", "2")) == 0
    return out


def test_a_closed_form_is_fitted_with_the_chosen_settings(
    own_data: Path, closed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert again(closed, out) == 0
    chosen = RunFolder(closed).metrics["training"]["settings"]
    wanted = fitted_policy(
        other_validation(load_dataset(str(own_data))), "linear", chosen, 1, torch.device("cpu")
    )
    assert weights(out)["weight"].equal(wanted.backbone.state_dict()["weight"])
    assert not weights(out)["weight"].equal(weights(closed)["weight"])


def test_a_network_is_trained_for_the_chosen_epochs(own_data: Path, network: Path, fitted: Path) -> None:
    training = RunFolder(network).metrics["training"]
    assert 0 < training["best_epoch"] < training["epochs"]
    command, data = pretrain.begun_command(network), other_validation(load_dataset(str(own_data)))
    backbone = backbone_for(data, "diffrec", {"hidden": [16], "num_steps": 5}, seed=0)
    config = replace(command.training, epochs=training["best_epoch"], patience=0)
    trainer = Pretrainer(data, backbone, config, device="cpu", num_steps=5)
    trainer.learn()
    wanted = trainer.training_weights()
    assert all(wanted[name].equal(value) for name, value in weights(fitted).items())


def test_a_fine_tuning_is_repeated_on_its_start_made_again(
    own_data: Path, fitted: Path, tuned_network: Path, tmp_path: Path
) -> None:
    assert again(tuned_network, tmp_path / "out") == 0
    training = RunFolder(tuned_network).metrics["training"]
    assert training["best_iteration"] > 0
    command = finetune.begun_command(tuned_network)
    kwargs = {"data": other_validation(load_dataset(str(own_data))), "backbone": "diffrec"}
    kwargs |= {"reward": "racs", "relevance": "holdout"}
    start = DiffusionPolicy.load(fitted, other_data=True)
    agent = Reinforce(start, "ReFiT-Custom-v0", command.agent, env_kwargs=kwargs, device="cpu")
    agent.learn(until=training["best_iteration"])
    wanted = between(agent.reference, agent.training_weights(), training["share"])
    found = DiffusionPolicy.load(tmp_path / "out").state_dict()
    assert all(wanted[name].equal(value) for name, value in found.items())


def small_data(backbone: str, task_data: dict[str, Dataset]) -> Dataset:
    tasks = backbone_class(backbone).tasks
    return task_data[next(task for task in ("cf", "social", "sequential", "poi") if task in tasks)]


@pytest.mark.parametrize("backbone", backbone_names())
def test_every_backbone(
    backbone: str, task_data: dict[str, Dataset], small_configs: dict[str, Any], tmp_path: Path
) -> None:
    folder, run, rl, out = (tmp_path / name for name in ("data", "run", "rl", "out"))
    save_dataset(small_data(backbone, task_data), folder)
    options = dict(small_configs[backbone])
    closed = is_closed_form(backbone) or backbone in ("hybrid", "stacked")
    options |= {"l2": 10.0} if closed and backbone != "spectral" else {}
    options |= {"recency": "none", "score_power": 0.0} if closed else {}
    few = [] if is_closed_form(backbone) else ["--epochs", "2"]
    start = ["pretrain", "--data", str(folder), "--backbone", backbone, "--out", str(run), *few, *QUIET]
    assert main([*start, "--backbone-options", *as_words(options)]) == 0
    plain = ["--estimator", "score"] if backbone in ("hdrm", "l-diffrec") else []
    more = ["--iterations", "2", "--eval-every", "1", "--exploration-std", "0.05", *plain]
    assert main(words(run, rl, *more)) == 0
    assert again(rl, out) == 0
    described = json.loads((out / "policy.json").read_text())
    assert described["backbone"] == backbone and described["validation_learned"] is True
    assert np.isfinite(list(RunFolder(out).metrics["test"].values())).all()
    assert main(["evaluate", "--run", str(out)]) == main(["recommend", "--run", str(out), "--user", "0"]) == 0


def test_what_it_leaves(tuned_network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["refit", "--run", str(tuned_network), "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    compared = printed["compared"]
    assert compared["before"] == RunFolder(tuned_network).metrics["after"]
    assert compared["after"] == printed["test"] and printed["cost"]["fit"]["seconds"] > 0
    assert main(["evaluate", "--run", str(out), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["metrics"]
    assert {name: measured[name] for name in printed["test"]} == pytest.approx(printed["test"], abs=1e-12)
    assert main(["evaluate", "--run", str(out), "--reward", "racs", "--relevance", "holdout"]) == 0
    assert main(["report", str(out), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "report.html").read_text()
    assert (
        "The model learned the validation items, too." in page
        and f"refit refit --run {tuned_network}" in page
    )
    assert main(["refit", "--run", str(tuned_network), "--out", str(out)]) == 2
    assert "holds a run already (refit of ReFiT-Custom-v0" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "--run", "OUT", "--split", "valid"], "was fitted to the validation items, too"),
        (["finetune", "--init", "OUT", "--out", "NEW"], "none is left to choose by"),
        (["pretrain", "--init", "OUT", "--out", "NEW"], "none is left to choose by"),
        (["reward", "check", "ndcg", "--init", "OUT"], "none is left to choose by"),
        (["finetune", "--init", "OUT", "--out", "NEW", "--new-data"], "none is left to choose by"),
        (["refit", "--run", "RUN"], "`refit refit --help` shows all"),
        (["refit", "--run", "OUT", "--out", "NEW"], "it was fitted to the validation items already"),
        (["refit", "--run", "RUN", "--out", "RUN"], "is the folder of --run, which the run reads"),
        (["refit", "--run", "NONE", "--out", "NEW"], "no run folder"),
    ],
)
def test_refusals(
    words: list[str],
    message: str,
    network: Path,
    fitted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = content_of(fitted)
    places = {"OUT": str(fitted), "NEW": str(tmp_path / "new"), "RUN": str(network), "NONE": "nowhere"}
    assert main([places.get(word, word) for word in words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert content_of(fitted) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["network", "tuned_network"])
def test_ctrl_c_leaves_what_was_there(
    kind: str,
    overwrite: bool,
    request: pytest.FixtureRequest,
    fitted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, run = tmp_path / "out", request.getfixturevalue(kind)
    if overwrite:
        shutil.copytree(fitted, out)
    before = content_of(out) if overwrite else {}
    step = Pretrainer._step if kind == "network" else Reinforce.update

    def stop(self: Any, *given: Any) -> Any:
        if self.done == 1:
            os.kill(os.getpid(), signal.SIGINT)  # the epoch or iteration under way is finished first
        return step(self, *given)

    monkeypatch.setattr(*((Pretrainer, "_step") if kind == "network" else (Reinforce, "update")), stop)
    assert again(run, out, *["--overwrite"] * overwrite) == 130
    assert "interrupted: nothing is kept; the same command begins anew" in capsys.readouterr().err
    assert content_of(out) == before if overwrite else not out.exists()


def change(run: Path, file: str, part: str, **values: Any) -> None:
    """Change fields of a part of a JSON file of a run; None deletes one."""
    content = json.loads((run / file).read_text())
    where = content[part] if part else content
    where.update(values)
    for name in [name for name, value in values.items() if value is None]:
        del where[name]
    (run / file).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("kind", "change_of", "message"),
    [
        ("rl", ("metrics.json", "", {"training": None}), "metrics.json: training"),
        ("rl", ("metrics.json", "training", {"best_iteration": None}), "best_iteration"),
        ("rl", ("metrics.json", "training", {"best_iteration": "8"}), "best_iteration"),
        ("rl", ("metrics.json", "training", {"best_iteration": -3}), "best_iteration"),
        (
            "rl",
            ("metrics.json", "training", {"best_iteration": 10**6}),
            "must be at most iterations, 8, found",
        ),
        ("rl", ("metrics.json", "training", {"share": "all"}), "share"),
        ("rl", ("config.json", "", {"init": None}), "config.json: init is missing"),
        ("rl", ("config.json", "env_kwargs", {"reward_kwargs": [1]}), "reward_kwargs"),
        ("elbo", ("metrics.json", "training", {"best_epoch": None}), "best_epoch"),
        ("elbo", ("metrics.json", "training", {"best_epoch": 10**6}), "must be at most epochs"),
        ("linear", ("metrics.json", "training", {"settings": None}), "settings"),
        ("linear", ("metrics.json", "training", {"settings": "x"}), "settings"),
        (
            "linear",
            ("metrics.json", "training", {"settings": {"nonsense": 1}}),
            "metrics.json: training: nonsense",
        ),
    ],
)
def test_damaged_folders_are_named(
    kind: str,
    change_of: tuple[str, str, dict[str, Any]],
    message: str,
    network: Path,
    tuned_network: Path,
    closed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree({"rl": tuned_network, "elbo": network, "linear": closed}[kind], run)
    change(run, *change_of[:2], **change_of[2])
    capsys.readouterr()
    assert again(run, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert str(run) in said.replace("\n", "") and message in " ".join(said.split())
    assert not (tmp_path / "out").exists()


def test_a_run_that_began_from_itself_is_refused(
    tuned_network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tuned_network, run)
    change(run, "config.json", "", init=str(run))
    assert again(run, tmp_path / "out") == 2
    assert "config.json: init: the run began from itself" in " ".join(capsys.readouterr().err.split())


def test_a_start_is_not_replaced(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, rl = tmp_path / "start", tmp_path / "rl"
    shutil.copytree(network, start)
    assert main(words(start, rl, "--reward", "ndcg", "--relevance", "holdout", "--iterations", "1")) == 0
    before = content_of(start)
    assert again(rl, start, "--overwrite") == 2
    assert "is the folder of a model that --run needs" in " ".join(capsys.readouterr().err.split())
    assert content_of(start) == before


def test_data_that_moved_is_named_by_an_option(own_data: Path, network: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(network, run)
    change(run, "config.json", "", data="/gone")
    assert again(run, tmp_path / "out") == 2
    assert again(run, tmp_path / "out", "--data", str(own_data)) == 0


def test_runs_that_cannot_be_repeated(
    own_data: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rl, later, moved = tmp_path / "rl", tmp_path / "later", tmp_path / "moved"
    assert main(words(network, rl, "--reward", "ndcg", "--relevance", "validation")) == 0
    save_dataset(synthesize(seed=3, num_users=60, num_items=50), later)
    more = ["--data", str(later), "--new-data", "--epochs", "1"]
    assert main(["pretrain", "--init", str(network), "--out", str(moved), *more, *QUIET]) == 0
    limited = tmp_path / "limited"
    more = ["--reward", "ndcg", "--relevance", "holdout", "--constraint", "coverage@20 >= 0.1"]
    assert main(words(network, limited, *more)) == 0
    reasons = {rl: "its reward counts validation items", moved: "it carried a model over to later data"}
    reasons |= {limited: "its --constraint is measured on validation items"}
    for run, reason in reasons.items():
        assert again(run, tmp_path / "out") == 2
        assert f"{run} cannot be fitted again: {reason}" in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "out").exists()


def test_a_start_that_is_gone_or_another_one_by_now_is_refused(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, rl, out = tmp_path / "start", tmp_path / "rl", tmp_path / "out"
    shutil.copytree(network, start)
    assert main(words(start, rl, "--reward", "ndcg", "--relevance", "holdout")) == 0
    more = ["--backbone", "diffrec", "--backbone-options", "hidden=[16]", "num_steps=5", "--epochs", "1"]
    data = RunFolder(network).config["data"]
    assert main(["pretrain", "--data", str(data), "--out", str(start), *more, "--overwrite", *QUIET]) == 0
    assert again(rl, out) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{rl} cannot be fitted again: it began from {start}, and {rl} was begun with the model" in said
    shutil.rmtree(start)
    assert again(rl, out) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"it began from {start}, and no run folder '{start}'" in said and not out.exists()


def test_other_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, run = tmp_path / "data", tmp_path / "run"
    save_dataset(synthesize(num_users=40, num_items=30), folder)
    fixed = ["--backbone-options", "l2=10", "recency=none", "score_power=0", "targets=row"]
    words = ["pretrain", "--data", str(folder), "--backbone", "linear", *fixed, "--out", str(run), *QUIET]
    assert main(words) == 0
    save_dataset(synthesize(seed=1, num_users=40, num_items=30), folder, overwrite=True)
    assert again(run, tmp_path / "out") == 2
    assert "Fit its model again on the data that it was made on" in " ".join(capsys.readouterr().err.split())
