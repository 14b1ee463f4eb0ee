"""The tables of ``refit compare backbones`` against numbers computed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from agents.experiments.backbone_tables import (
    grouped,
    model_table,
    note,
    percent,
    relative,
    slice_table,
    summarise,
)
from agents.experiments.claims import claims_table

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


def run(
    row: str, seed: int, value: float, *, env: str = "ReFiT-ML1M-v0", model: str = "diffrec"
) -> dict[str, Any]:
    means = dict.fromkeys(METRICS, value)
    part = {"users": 7.0} | means
    out: dict[str, Any] = {
        "env": env, "model": model, "row": row, "seed": seed, "test": means, "valid": means,
        "slices": {"cold": {"users": 0.0}, "popular": part, "tail": part},
        "cost": {
            "training_seconds": 2.0, "validation_seconds": 1.0, "peak_memory_mib": 100.0 + seed,
            "peak_device_memory_mib": 0.0,
        },
    }  # fmt: skip
    if row != "pretrained":
        out["over_pretrained"] = {"ndcg@20": {"low": value - 0.11}}
    return out


def example() -> list[dict[str, Any]]:
    runs = [run("pretrained", seed, 0.1) for seed in (2, 0, 1)]
    runs += [run("reinforce", seed, value) for seed, value in ((1, 0.12), (0, 0.11), (2, 0.13))]
    return runs


def test_gains_are_taken_seed_by_seed() -> None:
    found = {entry["row"]: entry for entry in summarise(grouped(example()))}["reinforce"]
    gain = found["gain"]["ndcg@20"]
    half = 4.302652729911275 * 0.1 / 3**0.5  # Student's t with 2 degrees of freedom, deviation 0.1
    assert gain["mean"] == pytest.approx(0.2)
    assert (gain["low"], gain["high"]) == pytest.approx((0.2 - half, 0.2 + half))
    assert found["seeds"] == [0, 1, 2] and found["seeds_sure"] == 2 and found["peak_memory_mib"] == 102.0
    assert found["slice_gain"]["tail"]["recall@20"]["mean"] == pytest.approx(0.2)
    assert found["slice_gain"]["cold"]["recall@20"] is None  # there is nobody


def test_tables_show_each_row_and_leave_empty_what_is_not_known() -> None:
    summary = summarise(grouped(example()))
    models = model_table(summary).rows
    assert [line[0] for line in models] == ["ML1M, diffrec", "ML1M, diffrec + REINFORCE"]
    assert models[0][5] == "" and models[1][5] == "+20.0 ± 24.8"  # the interval holds zero: no star
    (line,) = slice_table(summary).rows
    assert line[1:4] == ("0", "", "") and line[5].startswith("+20.0")


def test_claims_stand_beside_their_controls() -> None:
    runs = example() + [run("elbo", seed, 0.101) for seed in (0, 1, 2)]
    for model in ("dreamrec", "dreamrec-ranking"):
        pair = (("pretrained", 0.1), ("reinforce", 0.2))
        rows = [run(row, 0, value, env="ReFiT-Zhihu-v0", model=model) for row, value in pair]
        for found in rows:
            found["slices"]["cold"] = {"users": 100.0, "recall@20": found["test"]["recall@20"]}
        runs += rows
    assert claims_table(summarise(grouped(runs))).rows == (
        ("NDCG@20, standard CF", "+2.65", "1", "0", "+20.0", "+1.0"),
        ("NDCG@20, sequential", "up to +36.3", "1", "0", "+100.0", ""),  # of one seed nothing is sure
        ("the same over DreamRec trained to rank", "", "1", "0", "+100.0", ""),
        ("Recall@20 of users with fewer than 5 items", "+8.5", "1", "0", "+100.0", ""),
    )


def test_what_was_measured_on_a_gpu_is_marked() -> None:
    runs = example()
    for found in runs[:3]:
        found["device"] = "cuda"
        found["cost"]["peak_device_memory_mib"] = 7.0
    before, after = model_table(summarise(grouped(runs))).rows
    assert before[-2:] == ("3 G", "7 G") and after[-2:] == ("3", "102")
    assert "H200" in note({"H200"}) and "GPU" not in note()


def test_tasks_average_the_default_models_alone() -> None:
    runs = example()
    runs += [run("pretrained", 0, 0.1, model="cf-diff"), run("reinforce", 0, 0.9, model="cf-diff")]
    runs += [run("pretrained", 0, 0.1, env="ReFiT-Anime-v0"), run("reinforce", 0, 0.1, env="ReFiT-Anime-v0")]
    (line,) = claims_table(summarise(grouped(runs))).rows
    assert line == ("NDCG@20, standard CF", "+2.65", "2", "0", "+10.0", "")


def test_a_model_without_its_pretrained_row_is_left_out() -> None:
    assert grouped([run("reinforce", 0, 0.1)]) == {}


def test_relative_gains_that_are_not_defined() -> None:
    assert relative([]) is None and relative([(0.1, None)]) is None and percent(None) == ""
    one = relative([(0.2, 0.1)])
    assert one is not None and percent(one) == "+100.0 ± -" and not one["excludes_zero"]
    sure = relative([(0.2, 0.1), (0.2, 0.1)])
    assert percent(sure) == "+100.0 ± 0.0 *"
