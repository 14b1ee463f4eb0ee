"""Studies as YAML: what is wrong in a file is one line that names the file and the entry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agents.baselines import baseline, names
from agents.baselines.base import make_config
from agents.experiments.shipped import FOLDER, VARIANTS, shipped, shipped_of, study_path
from agents.experiments.study import Study, read_study, with_budget
from agents.hyperparams.models import baseline_settings, models_of
from refit_env.errors import DataError
from refit_env.registration import entry

ENV = "ReFiT-Synthetic-v0"
GOOD = """# A study
variants:
  start: {make: pretrain}
  rl: {make: finetune, parent: start, algorithm: reinforce}
environments:
  ReFiT-Synthetic-v0:
tables:
  - {kind: rows, columns: [ndcg@20]}
"""


@pytest.mark.parametrize("name", shipped_of(VARIANTS))
def test_shipped_studies_are_sound_and_say_what_they_are(name: str) -> None:
    study = read_study(study_path(name))
    assert study.name == name and study.environments and study.tables
    assert len(shipped()[name]) > 20
    for env_id in study.environments:
        assert study.place(env_id).variants[0].make in ("pretrain", "baseline")


def test_a_study_is_what_its_file_states(write: Callable[[str], Path]) -> None:
    study = read_study(write(GOOD))
    place = study.place(ENV)
    assert [variant.key for variant in place.variants] == ["start", "rl"]
    assert place.variant("rl").title == "rl" and place.variant("rl").needs() == ("start",)
    assert list(place.models) == ["diffrec"] and place.seeds == (0, 1, 2) and place.budget is None
    assert study.split == "test" and study.title == "tiny"
    other = study.place("ReFiT-ML1M-v0")  # an environment that the file does not name
    assert list(other.models) == ["diffrec"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("variants:", "varaints:", "unknown setting 'varaints'. Did you mean 'variants'?"),
        (
            "make: pretrain",
            "make: pretrian",
            "variants, start: make must be one of .* Did you mean 'pretrain'",
        ),
        ("{make: pretrain}", "{}", "variants, start: make must be one of"),
        ("parent: start", "parent: strat", "variants, rl: unknown variant 'strat'. Did you mean 'start'?"),
        ("parent: start, ", "", "variants, rl: parent must name the variant"),
        ("parent: start", "paernt: start", "variants, rl: unknown setting 'paernt'. Did you mean 'parent'?"),
        ("ReFiT-Synthetic-v0:", "ReFiT-Synthetik-v0:", "environments: .* Did you mean 'ReFiT-Synthetic-v0'"),
        ("[ndcg@20]", "[ndgc@20]", "tables, 1, columns: unknown column 'ndgc@20'. Did you mean 'ndcg@20'"),
        ("kind: rows", "kind: row", "tables, 1: kind must be one of rows"),
        ("# A study", "seeds: 0", "seeds: must be a number from 1 to 1000 or a list"),
        ("# A study", "seeds: [1, 1]", "seeds: must be a number from 1 to 1000 or a list"),
        ("# A study", "split: tset", "split must be one of test, valid; found 'tset'. Did you mean 'test'"),
        ("# A study", "budget: {steps: 0}", "budget: steps must be >= 1"),
        ("# A study", "models: [difrec]", "unknown model of ReFiT-Synthetic-v0 'difrec'. Did you mean"),
        ("# A study", "models: most", "models: must be all, default, a list or a mapping"),
        ("# A study", "per_user: [recal@20]", "per_user must be one of .* Did you mean 'recall@20'"),
        ("# A study", "title: [1]", "title must be a text"),
        ("# A study", "a: 1\na: 2", "line 2: 'a' is repeated in one mapping"),
        ("# A study", "[", "line [0-9]+: "),
        ("# A study", "\x00", "not a YAML file|special characters"),
        (GOOD, "- 1", "must be a mapping"),
        ("  - {kind: rows, columns: [ndcg@20]}", "  3", "tables: must be a list"),
        ("# A study", "also: 3", "also: must be a list"),
        ("# A study", "also: [{study: x}]", "also, 1: environment is not stated"),
        ("# A study", "figure: 3", "figure must be true or false"),
        ("start: {make: pretrain}", "../x: {make: pretrain}", "a name has letters, digits"),
        ("v0:", "v0: {models: {../x: {}}}", "a name has letters, digits"),
        (
            "algorithm: reinforce",
            "algorithm: reinforce, refit: true",
            "refit is for baselines and pretraining",
        ),
        ("v0:", "v0: {models: {x: {like: difrec}}}", "x, like: unknown model of .* Did you mean 'diffrec'"),
        ("v0:", "v0: {models: {x: {like: [diffrec]}}}", "x, like: must be the name of a model; found a list"),
        ("v0:", "v0: {models: {x: {backbone: 3}}}", "x, backbone: must be the name of a backbone; found 3"),
        ("v0:", "v0: {models: {x: {like: diffrec, backbone: hdrm}}}", "unknown setting 'backbone'"),
        (
            "v0:",
            "v0: {models: {x: {like: diffrec, options: {hiden: [8]}}}}",
            "models, x, options: hiden is no setting of backbone 'diffrec'. Did you mean 'hidden'",
        ),
        (
            "v0:",
            "v0: {models: {x: {backbone: linear, options: {l2: -1}}}}",
            "models, x, options: l2 must be .* found -1",
        ),
        ("v0:", "v0: {seed: 3}", "unknown setting 'seed'. Did you mean 'seeds'"),
        ("v0:", "v0: {variants: [strat]}", "unknown variant 'strat'. Did you mean 'start'"),
        ("  start: {make: pretrain}\n", "", "variants, rl: unknown variant 'start'"),
    ],
)
def test_mistakes_are_one_line(old: str, new: str, message: str, write: Callable[[str], Path]) -> None:
    path = write(GOOD.replace(old, new, 1))
    with pytest.raises(DataError, match=message) as error:
        read_study(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_what_a_variant_needs_comes_before_it(write: Callable[[str], Path]) -> None:
    later = GOOD.replace("environments:", "  first: {make: pretrain}\nenvironments:")
    path = write(later.replace("parent: start", "parent: first"))
    with pytest.raises(DataError, match="variants, rl: 'first', which it needs, must come before it"):
        read_study(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_study(tmp_path / "none.yml")
    (tmp_path / "folder.yml").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_study(tmp_path / "folder.yml")
    (tmp_path / "large.yml").write_text("#" * 2**21)
    with pytest.raises(DataError, match="at most"):
        read_study(tmp_path / "large.yml")


def test_a_study_is_named_or_a_file() -> None:
    assert study_path("backbones") == FOLDER / "backbones.yml"
    assert study_path("own/study.yml") == Path("own/study.yml")
    with pytest.raises(ValueError, match="Did you mean 'backbones'"):
        study_path("backbone")


def test_environments_add_and_choose_variants(write: Callable[[str], Path]) -> None:
    added = GOOD.replace("v0:\n", "v0:\n    variants: {b: {settings: {iterations: 1}}}\n")
    added += "template: {make: finetune, parent: start, algorithm: ppo}\n"
    place = read_study(write(added)).place(ENV)
    assert [variant.key for variant in place.variants] == ["start", "rl", "b"]
    assert place.variant("b").algorithm == "ppo"
    few = GOOD.replace("v0:\n", "v0: {variants: [start], seeds: 2, budget: {steps: 7}}\n")
    place = read_study(write(few)).place(ENV)
    assert [variant.key for variant in place.variants] == ["start"] and place.seeds == (0, 1)
    assert place.budget is not None and place.budget.steps == 7


def test_a_model_of_a_study_changes_one_of_the_environment(write: Callable[[str], Path]) -> None:
    body = "{like: diffrec, num_steps: 1, env: {reward: racs}, variants: {ppo: {iterations: 3}}}"
    place = read_study(write(GOOD.replace("v0:\n", f"v0: {{models: {{short: {body}}}}}\n"))).place(ENV)
    usual, short = models_of(ENV)["diffrec"], place.models["short"]
    assert short.num_steps == 1 and short.backbone == "diffrec" and short.pretrain == usual.pretrain
    assert short.env == {**usual.env, "reward": "racs"} != usual.env
    assert short.variants["ppo"] == {**usual.variants["ppo"], "iterations": 3}
    assert short.variants["es"] == usual.variants["es"]


def test_a_budget_that_is_typed_counts_everywhere(tiny: Study) -> None:
    algorithms = read_study(study_path("algorithms"))
    assert {with_budget(algorithms, 9).place(env).budget for env in algorithms.environments} == {
        type(algorithms.budget)(steps=9, validations=12)  # type: ignore[misc]
    }
    with pytest.raises(ValueError, match="tiny has no budget"):
        with_budget(tiny, 9)


def test_an_environment_without_data_is_refused(tiny: Study) -> None:
    with pytest.raises(ValueError, match="no data set of its own"):
        tiny.place("ReFiT-Custom-v0")


def test_the_study_of_the_documentation_is_one(write: Callable[[str], Path]) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "howto" / "studies.md").read_text(encoding="utf-8")
    study = read_study(write(page.split("```yaml\n")[1].split("```")[0]))
    assert study.place(ENV).seeds == (0, 1, 2, 3, 4) and study.variants[3].work_of == "reinforce"


def test_the_leaderboards_name_baselines_that_take_the_data_of_their_environments() -> None:
    study = read_study(study_path("leaderboards"))
    for env_id in study.environments:
        rows = [variant for variant in study.place(env_id).variants if variant.make == "baseline"]
        chosen = {variant.algorithm for variant in rows}
        task = entry(env_id).task
        assert chosen <= set(names(task)) | set(names("sequential")), env_id
        assert len(chosen) >= (8 if task in ("sequential", "poi") else 16), env_id
        for variant in rows:
            settings = baseline_settings(env_id, variant.algorithm)
            make_config(baseline(variant.algorithm).config_class, variant.algorithm, settings)
