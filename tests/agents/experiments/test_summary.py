"""The figures of a study, and its tables of models, slices and claims, against numbers computed by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.experiments.claims import claims_table
from agents.experiments.columns import percent
from agents.experiments.report import find, note
from agents.experiments.shipped import study_path
from agents.experiments.spec import Also
from agents.experiments.study import Study, read_study
from agents.experiments.summary import grouped, relative, summarise
from agents.experiments.tables import row_table, slice_table
from refit_env.errors import DataError
from refit_env.evaluation.statistics import mean_interval

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
COLUMNS = ("ndcg@20", "ndcg@20 gain", "seeds", "users sure", "seconds", "peak MiB")


def record(
    variant: str, seed: int, value: float, *, env: str = "ReFiT-ML1M-v0", model: str = "diffrec", **more: Any
) -> dict[str, Any]:
    means = dict.fromkeys(METRICS, value)
    part = {"users": 7.0} | means
    out: dict[str, Any] = {
        "key": f"{env}_{model}_{variant}_seed{seed}",
        "env": env, "model": model, "variant": variant, "seed": seed, "test": means, "valid": means,
        "slices": {"cold": {"users": 0.0}, "popular": part, "tail": part},
        "cost": {
            "training_seconds": 2.0, "validation_seconds": 1.0, "peak_memory_mib": 100.0 + seed,
            "peak_device_memory_mib": 0.0, "work": {"units": 8000.0},
        },
    }  # fmt: skip
    if variant != "pretrained":
        out["over_parent"] = {"ndcg@20": {"low": value - 0.11, "high": 1.0}}
    return out | more


def example() -> list[dict[str, Any]]:
    runs = [record("pretrained", seed, 0.1) for seed in (2, 0, 1)]
    return runs + [record("reinforce", seed, value) for seed, value in ((1, 0.12), (0, 0.11), (2, 0.13))]


@pytest.fixture(scope="module")
def study() -> Study:
    """The shipped comparison of backbones, all models, no rows of others."""
    found = read_study(study_path("backbones"))
    return replace(found, also=(), environments={env: None for env in found.environments})  # type: ignore[dict-item]


def entries(study: Study, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return summarise(grouped(study, runs, {}))


def test_gains_are_taken_seed_by_seed(study: Study) -> None:
    found = {entry["variant"]: entry for entry in entries(study, example())}["reinforce"]
    half = 4.302652729911275 * 0.1 / 3**0.5  # Student's t with 2 degrees of freedom, deviation 0.1
    gain = found["gain"]["ndcg@20"]
    assert gain["mean"] == pytest.approx(0.2) and not gain["excludes_zero"]
    assert (gain["low"], gain["high"]) == pytest.approx((0.2 - half, 0.2 + half))
    assert found["difference"]["ndcg@20"]["mean"] == pytest.approx(0.02)
    assert found["seeds"] == [0, 1, 2] and found["users_sure"] == 2
    assert found["slice_gain"]["tail"]["recall@20"]["mean"] == pytest.approx(0.2)
    assert found["slice_gain"]["cold"]["recall@20"] is None  # there is nobody
    expected = mean_interval([0.11, 0.12, 0.13])
    assert found["test"]["ndcg@20"]["low"] == pytest.approx(expected.low)


def test_costs_are_means_and_memory_is_the_worst_seed_s(study: Study) -> None:
    runs = example()
    for run in runs[:3]:
        run["cost"] |= {"validation_seconds": None, "work": None}  # older records
    start, rl = entries(study, runs)
    assert (start["seconds"], start["work"]) == (2.0, None)
    assert (rl["seconds"], rl["work"], rl["peak_memory_mib"]) == (3.0, 8000.0, 102.0)


def test_a_seed_without_its_parent_has_no_gain(study: Study) -> None:
    found = entries(study, [r for r in example() if (r["variant"], r["seed"]) != ("pretrained", 0)])[1]
    assert found["difference"]["ndcg@20"]["count"] == 2 and len(found["seeds"]) == 3
    alone = entries(study, [record("reinforce", 0, 0.1)])
    assert "gain" not in alone[0]


def test_gains_are_over_the_variant_s_own_parent() -> None:
    tuned = read_study(study_path("fine-tuning"))
    runs = [
        record("pretrained", 0, 0.1), record("same", 0, 0.2), record("same-reinforce", 0, 0.3),
    ]  # fmt: skip
    gains = {e["variant"]: e["gain"]["ndcg@20"]["mean"] for e in entries(tuned, runs) if "gain" in e}
    assert gains == pytest.approx({"same": 1.0, "same-reinforce": 0.5})


def test_tables_show_each_row_and_leave_empty_what_is_not_known(study: Study) -> None:
    found = entries(study, example())
    table = row_table("T", "model", COLUMNS, found, "test", each=False)
    assert table.rows[0] == ("ML1M, diffrec", "0.1000 ± 0.0000", "", "3", "", "3", "102")
    assert table.rows[1][0] == "ML1M, diffrec + REINFORCE"
    assert table.rows[1][2:5] == ("+20.0 ± 24.8", "3", "2/3")  # the interval holds zero: no star
    (line,) = slice_table(found).rows
    assert line[:4] == ("ML1M, diffrec", "0", "", "") and line[5].startswith("+20.0")
    without = [run | {"slices": {}} for run in example()]
    assert slice_table(entries(study, without)).rows == ()


def test_claims_are_shown_beside_their_controls(study: Study) -> None:
    runs = example() + [record("elbo", seed, 0.101) for seed in (0, 1, 2)]
    for model in ("dreamrec", "dreamrec-distance", "dreamrec-ranking"):
        pair = (("pretrained", 0.1), ("reinforce", 0.2))
        rows = [record(variant, 0, value, env="ReFiT-Zhihu-v0", model=model) for variant, value in pair]
        for found in rows:
            found["slices"]["cold"] = {"users": 100.0, "recall@20": found["test"]["recall@20"]}
        runs += rows
    assert claims_table(entries(study, runs)).rows == (
        ("NDCG@20, standard CF", "+2.65", "1", "0", "+20.0", "+1.0"),
        ("NDCG@20, sequential", "up to +36.3", "1", "0", "+100.0", ""),  # of one seed nothing is sure
        ("the same over DreamRec ranked by distance", "", "1", "0", "+100.0", ""),
        ("the same over DreamRec trained to rank", "", "1", "0", "+100.0", ""),
        ("Recall@20 of users with fewer than 5 items", "+8.5", "1", "0", "+100.0", ""),
    )


def test_tasks_average_the_default_models_alone(study: Study) -> None:
    runs = example()
    runs += [record("pretrained", 0, 0.1, model="cf-diff"), record("reinforce", 0, 0.9, model="cf-diff")]
    anime = "ReFiT-Anime-v0"
    runs += [record("pretrained", 0, 0.1, env=anime), record("reinforce", 0, 0.1, env=anime)]
    (line,) = claims_table(entries(study, runs)).rows
    assert line == ("NDCG@20, standard CF", "+2.65", "2", "0", "+10.0", "")


def test_what_was_measured_on_a_gpu_is_marked(study: Study) -> None:
    runs = example()
    for run in runs[:3]:
        run |= {"device": "cuda", "machine": {"gpu": "H200"}}
        run["cost"]["peak_device_memory_mib"] = 7.0
    table = row_table("T", "model", ("seconds", "peak MiB"), entries(study, runs), "test", each=False)
    assert table.rows[0][1:] == ("3 G", "7 G") and table.rows[1][1:] == ("3", "102")
    assert "on a GPU (H200)" in note(find(study, runs, {}))
    assert "on a GPU" not in note(find(study, example(), {}))


def test_rows_of_another_study_keep_their_parents(study: Study) -> None:
    """REINFORCE after the same-information loss gains over that loss, not over the first row."""
    titles = {"pretrained": "start", "same": "+ same", "same-reinforce": "+ same + RL"}
    also = Also("fine-tuning", "ReFiT-ML1M-v0", "diffrec", titles)
    records = [*example(), record("same", 0, 0.2), record("same-reinforce", 0, 0.25)]
    found = grouped(replace(study, also=(also,)), [], {"fine-tuning": records})
    assert {runs.variant: runs.parent for runs in found} == {
        "pretrained": "", "same": "pretrained", "same-reinforce": "same",
    }  # fmt: skip
    gains = {e["variant"]: e["difference"]["ndcg@20"]["mean"] for e in summarise(found) if "difference" in e}
    assert gains["same-reinforce"] == pytest.approx(0.05)
    less = replace(also, variants={"pretrained": "start", "same-reinforce": "+ same + RL"})
    found = grouped(replace(study, also=(less,)), [], {"fine-tuning": records})
    assert found[1].parent == "pretrained"  # its own is not shown


def test_rows_of_another_study_are_shown_under_this_one_s_titles(study: Study) -> None:
    also = Also("fine-tuning", "ReFiT-ML1M-v0", "diffrec", {"pretrained": "start", "reinforce": "+ RL"})
    kin = [record("pretrained", 0, 0.2, model="t-diffrec")]
    found = find(replace(study, also=(also,)), kin, {"fine-tuning": example()})
    names = [line[0] for line in row_table("T", "m", (), found.entries, "test", each=False).rows]
    assert names == ["ML1M, diffrec", "ML1M, diffrec + RL", "ML1M, t-diffrec"]
    remarks = [line for line in note(found).splitlines() if "of other studies" in line]
    assert len(remarks) == 1 and remarks[0].endswith(" fine-tuning: diffrec on ReFiT-ML1M-v0.")
    assert "other studies" not in note(find(replace(study, also=(also,)), kin, {}))
    known = Also("leaderboards", "ReFiT-ML1M-v0", "", {"ease": "EASE"})
    floor = {"leaderboards": [record("ease", 0, 0.2, model="")]}
    assert "leaderboards: baselines on ReFiT-ML1M-v0." in note(
        find(replace(study, also=(known,)), kin, floor)
    )


def test_two_studies_of_a_model_do_not_share_their_starts(study: Study) -> None:
    titles = {"pretrained": "start", "reinforce": "+ RL"}
    also, others = [], {}
    for name, value in (("fine-tuning", 0.1), ("backbones", 0.2)):
        also.append(Also(name, "ReFiT-ML1M-v0", "diffrec", titles))
        start = record("pretrained", 0, value, weights=name)
        others[name] = [start, record("reinforce", 0, 0.5, start=name)]
    found = find(replace(study, also=tuple(also)), [], others).entries
    gains = [e["difference"]["ndcg@20"]["mean"] for e in found if "difference" in e]
    assert gains == pytest.approx([0.4, 0.3])


def test_older_records_are_counted_by_environment(study: Study) -> None:
    assert "6 of 6 cells are older records, which hold" in note(find(study, example(), {}))


def test_a_row_of_another_start_is_refused(study: Study) -> None:
    runs = [record("pretrained", 0, 0.1, weights="a"), record("reinforce", 0, 0.2, start="a")]
    assert find(study, runs, {}).entries
    runs[1]["start"] = "b"
    with pytest.raises(
        DataError, match=r"x\.jsonl: .*reinforce_seed0 began from another checkpoint than that of 'pre"
    ):
        find(study, runs, {}, Path("x.jsonl"))


def test_relative_gains_that_are_not_defined() -> None:
    assert relative([]) is None and relative([(0.1, None)]) is None and percent(None) == ""
    one = relative([(0.2, 0.1)])
    assert one is not None and percent(one) == "+100.0 ± -" and not one["excludes_zero"]
    sure = relative([(0.2, 0.1), (0.2, 0.1)])
    assert percent(sure) == "+100.0 ± 0.0 *"
