"""Cells end to end: what each kind of variant makes, and what its record holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.experiments import making, measuring
from agents.experiments.cell_processes import do_cell
from agents.experiments.per_user import values_of
from agents.experiments.plan import plan
from agents.experiments.records import read_records
from agents.experiments.report import find, report
from agents.experiments.shipped import study_path
from agents.experiments.spec import Variant
from agents.experiments.study import Study, read_study
from agents.training.closed_form_search import fitted_policy
from agents.training.pretrainer import pretrain
from refit_env.data import Dataset, load_dataset
from refit_env.errors import DataError
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy

ENV = "ReFiT-Synthetic-v0"


def found(records: Path, variant: str) -> dict[str, Any]:
    return read_records(records)[f"{ENV}_diffrec_{variant}_seed0"]


def with_model(study: Study, **model: Any) -> Study:
    own = dict(study.environments[ENV])
    own["models"] = {"diffrec": {**own["models"]["diffrec"], **model}}
    return replace(study, environments={ENV: own})


def test_a_record_holds_what_tables_and_repetitions_need(measured: Path) -> None:
    record = found(measured, "reinforce")
    assert (record["env"], record["model"], record["task"]) == (ENV, "diffrec", "cf")
    assert (record["variant"], record["seed"], record["split"]) == ("reinforce", 0, "test")
    assert set(record["test"]) == {"recall@10", "recall@20", "ndcg@10", "ndcg@20"}
    assert set(record["slices"]) == {"cold", "popular", "tail"} and record["users"] == 800
    assert record["cost"]["peak_memory_mib"] > 0 and record["env_steps"] == 2 * 16 * 4
    assert record["curve"]["steps"] == [0.0, 64.0, 128.0] and record["settings"]["config"]["hidden"] == [16]
    start = found(measured, "pretrained")
    assert record["start"] == start["weights"] and record["weights"] is None and start["start"] is None
    assert values_of(record, "ndcg@20").mean() == pytest.approx(record["test"]["ndcg@20"], abs=1e-5)
    over = record["over_parent"]["ndcg@20"]
    assert over["mean_difference"] == pytest.approx(
        record["test"]["ndcg@20"] - start["test"]["ndcg@20"], abs=2e-5
    )
    assert found(measured, "same-reinforce")["start"] == found(measured, "same")["weights"]


def test_a_control_has_as_much_work_as_the_variant_it_is_compared_with(measured: Path) -> None:
    elbo, other = found(measured, "elbo"), found(measured, "reinforce")
    assert elbo["budget"] == {"unit": "work", "amount": other["cost"]["work"]["units"]}
    assert 0 <= elbo["cost"]["work"]["units"] - elbo["budget"]["amount"] < 400
    assert found(measured, "same")["settings"]["same"]["settings"]["target"] == "recent"


def test_checkpoints_are_kept_where_others_begin_from_them(measured: Path) -> None:
    kept = {path.name for path in (measured.parent / "runs" / "tiny").iterdir()}
    assert kept == {f"{ENV}_diffrec_pretrained_seed0", f"{ENV}_diffrec_same_seed0"}
    policy, dataset = (
        DiffusionPolicy.load(measured.parent / "runs" / "tiny" / sorted(kept)[0]),
        load_dataset("synthetic"),
    )
    test = evaluate(policy.scorer(dataset), dataset, "test").means()
    assert test["ndcg@20"] == pytest.approx(found(measured, "pretrained")["test"]["ndcg@20"], abs=1e-6)


def test_a_budget_of_environment_steps_states_the_iterations(
    write: Callable[[str], Path], tmp_path: Path, run: Callable[..., Any], tiny_text: str
) -> None:
    study = read_study(write(tiny_text + "budget: {steps: 256, validations: 2}\n"))
    records = tmp_path / "tiny.jsonl"
    run(study, records, variants=["reinforce"])
    record = found(records, "reinforce")
    assert record["env_steps"] == 256 and len(record["curve"]["steps"]) == 3  # the start, and two validations
    assert record["settings"]["reinforce"]["budget"] == {"steps": 256, "validations": 2}


def test_stable_baselines3_trains_within_the_budget(
    write: Callable[[str], Path], tmp_path: Path, run: Callable[..., Any], tiny_text: str
) -> None:
    row = "  sb3: {make: sb3, parent: pretrained, algorithm: a2c, settings: {num_envs: 8}}\nenvironments:"
    study = read_study(
        write(tiny_text.replace("environments:", row, 1) + "budget: {steps: 100, validations: 2}\n")
    )
    records = tmp_path / "tiny.jsonl"
    run(study, records, variants=["sb3"])
    assert found(records, "sb3")["env_steps"] == 96  # three rollouts of 32
    assert found(records, "sb3")["start"] == found(records, "pretrained")["weights"]


def test_the_lists_of_a_reward_model_are_measured_beside_what_was_rewarded_by_it(
    tiny: Study, tmp_path: Path, run: Callable[..., Any]
) -> None:
    rows = (
        tiny.variants[0],
        Variant("reward", "reward", "reward_model", "pretrained", of_reward_models=True),
        replace(tiny.variants[1], key="distill", algorithm="distill", of_reward_models=True),
    )
    env = {"reward": {"ease": 1.0}, "relevance": "holdout", "reward_kwargs": {"l2": 300.0}}
    brief = {"distill": {"iterations": 2, "users_per_batch": 16, "eval_every": 1}}
    records = tmp_path / "tiny.jsonl"
    cells = run(with_model(replace(tiny, variants=rows), env=env, variants=brief), records)
    assert (
        len(cells) == 3 and len(run(replace(tiny, variants=rows), tmp_path / "b.jsonl")) == 1
    )  # ndcg is no model
    shown = load_dataset("synthetic").train.csr.toarray().astype(float)
    inverse = np.linalg.inv(shown.T @ shown + 300.0 * np.eye(shown.shape[1]))
    scores = torch.from_numpy(shown @ ((1 - np.eye(len(inverse))) * inverse / -np.diag(inverse)))
    test = evaluate(lambda users: scores[users], load_dataset("synthetic"), "test").means()
    assert found(records, "reward")["test"]["ndcg@20"] == pytest.approx(test["ndcg@20"], abs=1e-4)
    assert "over_parent" in found(records, "distill")


@pytest.mark.parametrize(
    "goal",
    [
        {"reward": "ndcg", "relevance": "validation"},
        {"reward": "racs", "relevance": "recent", "reward_kwargs": {"neighbor_relevance": "validation"}},
    ],
)
def test_the_control_trains_on_the_validation_items_that_the_reward_sees(
    goal: dict[str, Any],
    tiny: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[..., Any],
) -> None:
    trained_on: list[Dataset] = []

    def watched(dataset: Dataset, *args: Any, **kwargs: Any) -> Any:
        trained_on.append(dataset)
        return pretrain(dataset, *args, **kwargs)

    monkeypatch.setattr("agents.experiments.training.pretrain", watched)
    run(with_model(tiny, env=goal), tmp_path / "tiny.jsonl", variants=["elbo"])
    whole, more = trained_on
    gained = np.flatnonzero(more.train.counts - whole.train.counts)
    assert 0.4 < len(gained) / np.count_nonzero(whole.valid.counts) < 0.6
    assert not more.valid.counts[gained].any()  # they select nothing any more
    assert (more.train.counts + more.valid.counts == whole.train.counts + whole.valid.counts).all()


def test_a_search_reads_no_test_item(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    seen: list[str] = []

    def watched(score: Any, data: Any, split: str, **kwargs: Any) -> Any:
        seen.append(split)
        return evaluate(score, data, split, **kwargs)

    monkeypatch.setattr(measuring, "evaluate", watched)
    records = tmp_path / "tiny.jsonl"
    run(replace(tiny, split="valid"), records, variants=["reinforce"])
    assert set(seen) == {"valid"} and "test" not in found(records, "reinforce")
    assert set(found(records, "reinforce")["over_parent"]) == {"ndcg@20", "recall@20"}
    search = find(replace(tiny, split="valid", tables=()), list(read_records(records).values()), {})
    (choice,) = report(search, "")["choices"]
    assert choice["env"] == ENV and choice["variant"] in ("reinforce", None)


def test_a_baseline_is_fitted_and_measured(tiny: Study, tmp_path: Path, run: Callable[..., Any]) -> None:
    row = Variant("popular", "Popularity", "baseline", algorithm="popularity")
    again = replace(row, key="refitted", refit=True)
    records = tmp_path / "tiny.jsonl"
    run(replace(tiny, variants=(row, again), environments={}), records, env_ids=[ENV])
    first, refitted = read_records(records).values()
    assert first["key"] == f"{ENV}_popular_seed0" and first["model"] == "" and first["start"] is None
    assert "over_parent" not in first and len(values_of(first, "ndcg@20")) == first["users"]
    dataset = load_dataset("synthetic")
    counts = torch.as_tensor(np.asarray(dataset.train.csr.sum(0)).ravel())
    means = evaluate(lambda users: counts.repeat(len(users), 1), dataset, "test").means()
    assert first["test"]["ndcg@20"] == pytest.approx(means["ndcg@20"], abs=1e-4)
    assert refitted["test"] != first["test"] and "valid" not in refitted  # it knows the validation items, too


def test_embeddings_are_scored_by_the_parent_s_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: dict[str, Any] = {}

    def stop(
        name: str, policy: Any, env_id: str, config: Any, env_kwargs: Any, seed: int, device: str
    ) -> None:
        passed.update(env_kwargs)
        raise InterruptedError

    study = read_study(study_path("search"))
    cells = plan(study, Path("out/search.jsonl"), env_ids=["ReFiT-Zhihu-v0"], variants=["slope-std1"])
    (job,) = next(cell.arguments for cell in cells if cell.settings["variant"] == "slope-std1")
    monkeypatch.setattr(making.DiffusionPolicy, "load", lambda folder: None)
    monkeypatch.setattr(making, "data_of", lambda env_id: None)
    monkeypatch.setattr(making, "fine_tuned", stop)
    monkeypatch.setattr(making, "reward_spread", lambda *given: {})
    with pytest.raises(InterruptedError):
        making.run_job(job)
    assert passed["checkpoint"] == str(job.parent.resolve()) and passed["reward"] == "log_rank"


def test_a_parent_without_values_of_single_users_is_named(finished: Path, tiny: Study) -> None:
    finished.write_text(finished.read_text().replace('"per_user"', '"per_users"'))
    cell = plan(tiny, finished, variants=["reinforce"])[-1]
    with pytest.raises(DataError, match="pretrained_seed0 holds no ndcg@20 of single users"):
        do_cell(cell, finished)


def test_a_model_is_refitted_to_train_and_validation_items(
    tiny: Study, tmp_path: Path, run: Callable[..., Any]
) -> None:
    start = Variant("start", "start", "pretrain")
    again = replace(start, key="refitted", refit=True)
    study = replace(with_model(tiny, backbone="linear", options={"l2": 20.0}), variants=(start, again))
    records = tmp_path / "tiny.jsonl"
    run(study, records, env_ids=[ENV])
    first, refitted = found(records, "start"), found(records, "refitted")
    assert refitted["settings"]["refitted"]["refit"] and "refit" not in first["settings"]["start"]
    dataset = load_dataset("synthetic")
    joined = dataset.learning_validation()
    policy = fitted_policy(joined, "linear", {"l2": 20.0}, 4, torch.device("cpu"))
    wanted = evaluate(policy.scorer(joined), joined, "test").means()
    assert refitted["test"]["ndcg@20"] == pytest.approx(wanted["ndcg@20"], abs=1e-4)
    assert refitted["test"] != first["test"] and "valid" not in refitted
    network = replace(
        with_model(tiny, pretrain={"epochs": 4, "learning_rate": 0.05}), variants=(start, again)
    )
    run(network, tmp_path / "network.jsonl", env_ids=[ENV])
    first, refitted = (found(tmp_path / "network.jsonl", name) for name in ("start", "refitted"))
    assert refitted["settings"]["refitted"]["refit"] is True
    assert refitted["cost"]["work"]["units"] > first["cost"]["work"]["units"]  # validation chose first
    assert refitted["test"] != first["test"] and "valid" not in refitted
