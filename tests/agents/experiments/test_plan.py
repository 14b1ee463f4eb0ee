"""The cells of a study: which there are, what they wait for, what decides them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.baselines.reward_models import EaseConfig
from agents.experiments.plan import plan
from agents.experiments.records import staleness
from agents.experiments.shipped import study_path
from agents.experiments.spec import Variant
from agents.experiments.study import Study, read_study
from refit_env.errors import DataError
from refit_env.settings import plain

ENV = "ReFiT-Synthetic-v0"
RECORDS = Path("nowhere/tiny.jsonl")


def key(variant: str, seed: int = 0) -> str:
    return f"{ENV}_diffrec_{variant}_seed{seed}"


def changed(study: Study, **model: Any) -> Study:
    """The study with another model."""
    own = dict(study.environments[ENV])
    own["models"] = {"diffrec": {**own["models"]["diffrec"], **model}}
    return replace(study, environments={ENV: own})


def test_cells_wait_for_what_they_begin_from_and_what_their_budget_is(tiny: Study) -> None:
    needs = {cell.key: cell.needs for cell in plan(tiny, RECORDS)}
    assert needs == {
        key("pretrained"): (),
        key("reinforce"): (key("pretrained"),),
        key("elbo"): (key("pretrained"), key("reinforce")),
        key("same"): (key("pretrained"),),
        key("same-reinforce"): (key("same"),),
    }
    leaves = {cell.key: cell.leaves for cell in plan(tiny, RECORDS)}
    assert {name for name, path in leaves.items() if path} == {key("pretrained"), key("same")}
    assert leaves[key("same")] == Path("nowhere/runs/tiny") / key("same") / "policy.safetensors"


@pytest.mark.parametrize(
    ("wanted", "made"),
    [
        ("reinforce", ["pretrained", "reinforce"]),
        ("elbo", ["pretrained", "reinforce", "elbo"]),
        ("same-reinforce", ["pretrained", "same", "same-reinforce"]),
    ],
)
def test_what_a_variant_needs_is_made_with_it(tiny: Study, wanted: str, made: list[str]) -> None:
    assert [cell.key for cell in plan(tiny, RECORDS, variants=[wanted])] == [key(name) for name in made]
    with pytest.raises(
        ValueError, match=r"variants 'reinforc' is no variant of tiny\. Did you mean 'reinforce'"
    ):
        plan(tiny, RECORDS, variants=["reinforc"])


def test_the_plan_goes_seed_by_seed(tiny: Study) -> None:
    study = read_study(study_path("backbones"))
    keys = [cell.key for cell in plan(study, RECORDS, env_ids=["ReFiT-Zhihu-v0", ENV])]
    seeds = [int(name.rsplit("seed", 1)[1]) for name in keys]
    assert seeds == sorted(seeds) and sum(name.endswith("seed4") for name in keys) == 11  # Zhihu has five
    assert [c.key for c in plan(tiny, RECORDS, variants=["pretrained"], seeds=2)] == [
        key("pretrained"), key("pretrained", 1),
    ]  # fmt: skip
    search = read_study(study_path("search"))
    found = plan(search, RECORDS, env_ids=["ReFiT-ML1M-v0"], variants=["pretrained"], seeds=2)
    assert [cell.settings["seed"] for cell in found] == [100, 101]  # never those of a reported study


def test_models_are_chosen_by_name_and_by_machine(tiny: Study) -> None:
    study = read_study(study_path("backbones"))

    def models(**chosen: Any) -> set[str]:
        cells = plan(study, RECORDS, env_ids=["ReFiT-ML1M-v0"], **chosen)
        return {cell.settings["model"] for cell in cells}

    assert "cf-diff-published" not in models() and "cf-diff-published" in models(large=True)
    assert models(models=["cf-diff-published"]) == {"cf-diff-published"}
    with pytest.raises(ValueError, match="Did you mean 'cf-diff'"):
        models(models=["cf-dif"])


def test_a_variant_of_one_environment_is_made_there_alone() -> None:
    study = read_study(study_path("search"))
    cells = plan(study, RECORDS, variants=["slope-std.3"])
    assert {cell.settings["env"] for cell in cells} == {"ReFiT-YooChoose-v0", "ReFiT-KuaiRec-v0"}


def test_variants_of_reward_models_are_made_where_a_model_is_the_reward() -> None:
    study = read_study(study_path("backbones"))
    cells = plan(study, RECORDS, env_ids=["ReFiT-YooChoose-v0"], seeds=1)
    found = {(cell.settings["model"], cell.settings["variant"]) for cell in cells}
    assert ("dreamrec-ranking", "distill") in found and ("dreamrec", "distill") not in found


def test_cells_depend_on_their_own_settings_and_those_that_they_begin_from(tiny: Study) -> None:
    def settings(study: Study) -> dict[str, Any]:
        return {cell.settings["variant"]: plain(cell.settings) for cell in plan(study, RECORDS)}

    def differing(**model: Any) -> set[str]:
        before, after = settings(tiny), settings(changed(tiny, **model))
        return {name for name in before if before[name] != after[name]}

    everything = {variant.key for variant in tiny.variants}
    assert differing(pretrain={"epochs": 7}) == everything
    assert differing(variants={"same": {"epochs": 7}}) >= {"same", "same-reinforce"}
    own = dict(tiny.environments[ENV]["models"]["diffrec"]["variants"])
    assert differing(variants={**own, "same": {"epochs": 7}}) == {"same", "same-reinforce"}
    assert differing(variants={**own, "elbo": {"epochs": 7}}) == {"elbo"}
    assert differing(variants={"reinforce": {**own["reinforce"], "iterations": 7}}) == {
        "reinforce", "elbo", "same-reinforce",
    }  # fmt: skip
    assert differing(env={"reward": "ndcg", "relevance": "holdout"}) == everything - {"pretrained"}
    assert all(cell.data == "synthetic" for cell in plan(tiny, RECORDS))


def test_wrong_settings_name_file_variant_model_and_environment(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = changed(tiny, variants={"reinforce": {"iteration": 1}})
    place = f"reinforce of diffrec of {ENV}: unknown setting .*iterations"
    with pytest.raises(DataError, match=f"^{re.escape(str(tiny.path))}: {place}"):
        plan(study, RECORDS)
    text = "diffrec: {variants: {reinforce: {iteration: 1}}}\nbaselines: {ease: {l3: 1.0}}\n"
    (tmp_path / "synthetic.yml").write_text(text, encoding="utf-8")
    monkeypatch.setattr("agents.hyperparams.models.FOLDER", tmp_path)
    monkeypatch.setattr("agents.experiments.plan.FOLDER", tmp_path)
    file = re.escape(str(tmp_path / "synthetic.yml"))
    with pytest.raises(DataError, match=f"^{file}: {place}"):
        plan(replace(tiny, environments={}), RECORDS, env_ids=[ENV])
    ease = Variant("ease", "EASE", "baseline", algorithm="ease")
    with pytest.raises(DataError, match=f"^{file}: ease of {ENV}: unknown setting of baseline 'ease' 'l3'"):
        plan(replace(tiny, environments={}, variants=(ease,)), RECORDS, env_ids=[ENV])


def test_a_backbones_setting_that_was_added_later_counts_as_its_default(tiny: Study) -> None:
    (cell, *_) = plan(tiny, RECORDS)
    settings = plain(dict(cell.settings))
    del settings["config"]["noise_scale"]  # a record from before there was such a setting
    assert staleness({"settings": settings}, replace(cell, data="")) == []
    (other, *_) = plan(changed(tiny, options={"hidden": [16], "num_steps": 5, "noise_scale": 0.7}), RECORDS)
    (fault,) = staleness({"settings": settings}, replace(other, data=""))
    assert fault.startswith("config.noise_scale was") and fault.endswith("now 0.7")


def test_a_baseline_is_a_row_of_no_model_and_has_a_seed_where_it_draws(tiny: Study) -> None:
    rows = (
        Variant("ease", "EASE", "baseline", algorithm="ease", settings={"l2": 9.0}),
        Variant("als", "iALS", "baseline", algorithm="ials", refit=True),
    )
    cells = plan(replace(tiny, variants=(*tiny.variants[:1], *rows)), RECORDS, seeds=2)
    assert [cell.key for cell in cells] == [
        f"{ENV}_ease_seed0", f"{ENV}_als_seed0", key("pretrained"), f"{ENV}_als_seed1", key("pretrained", 1),
    ]  # fmt: skip
    part = {"baseline": "ease", "settings": EaseConfig(l2=9.0), "refit": False}
    assert cells[0].settings["ease"] == part
    record = {"settings": plain(cells[1].settings)}  # all of its settings: another default is noticed
    assert staleness(record, replace(cells[1], data="")) == []
    record["settings"]["als"]["settings"]["l2"] = 0.5
    (fault,) = staleness(record, replace(cells[1], data=""))
    assert fault.startswith("als.settings.l2 was 0.5, now ")
    assert cells[1].settings["als"]["refit"] is True
    with pytest.raises(ValueError, match="Did you mean 'ease'"):
        plan(replace(tiny, variants=(replace(rows[0], algorithm="eas"),)), RECORDS)
    with pytest.raises(ValueError, match="unknown setting of baseline 'ease' 'l3'"):
        plan(replace(tiny, variants=(replace(rows[0], settings={"l3": 1.0}),)), RECORDS)


def test_a_users_algorithm_of_another_content_is_another_cell(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    variants = (*tiny.variants, Variant("mine", "mine", "finetune", "pretrained", "my_agent.py:Agent"))
    found = []
    for comment in ("", "# changed"):
        Path("my_agent.py").write_text(
            "from agents.algorithms.reinforce import Reinforce\n"
            f"class Agent(Reinforce):\n    name = 'mine'  {comment}\n"
        )
        study = replace(tiny, variants=variants)
        [cell] = [c for c in plan(study, RECORDS, variants=["mine"]) if c.key == key("mine")]
        found.append(cell.settings)
    assert found[0]["mine"].pop("algorithm_sha256") != found[1]["mine"].pop("algorithm_sha256")
    assert found[0] == found[1]
