"""The settings of variants: the class's, changed by the study, changed by what was tuned for the model."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from agents.algorithms.registry import ALGORITHMS, presets
from agents.baselines import BaselineConfig
from agents.experiments.resolve import changed, env_of, settings_of
from agents.experiments.shipped import VARIANTS, shipped_of, study_path
from agents.experiments.spec import Place, Variant
from agents.experiments.study import Study, read_study
from agents.hyperparams.models import Model
from agents.hyperparams.sb3 import SB3Settings
from agents.training.config import TrainerConfig
from agents.training.pretrain_config import PretrainConfig
from refit_env.errors import SettingError

KINDS = {
    "pretrain": PretrainConfig,
    "continue": PretrainConfig,
    "finetune": TrainerConfig,
    "sb3": SB3Settings,
    "baseline": BaselineConfig,
    "reward_model": type(None),
}
ENV = "ReFiT-Synthetic-v0"


def every_row() -> list[tuple[str, str]]:
    return [(name, env) for name in shipped_of(VARIANTS) for env in read_study(study_path(name)).environments]


@pytest.mark.parametrize(("name", "env_id"), every_row())
def test_every_variant_of_every_shipped_study_has_settings(name: str, env_id: str) -> None:
    place = read_study(study_path(name)).place(env_id)
    for model in place.models.values():
        for variant in place.variants:
            assert isinstance(settings_of(variant, model, place), KINDS[variant.make])


def place_of(*variants: Variant, **model: Any) -> tuple[Model, Place]:
    made = Model("diffrec", **{"env": {"reward": "ndcg", "relevance": "recent"}, **model})
    return made, Place({"diffrec": made}, variants, (0,), None)


START = Variant("start", "start", "pretrain")
RL = Variant("rl", "rl", "finetune", "start", "reinforce", settings={"iterations": 7, "learning_rate": 0.5})


def test_the_model_s_own_settings_go_before_the_study_s() -> None:
    model, place = place_of(
        START, RL, variants={"rl": {"learning_rate": 0.25, "preset": "score"}}, relevance_draws=3
    )
    expected = replace(presets("reinforce")["score"], iterations=7, learning_rate=0.25, relevance_draws=3)
    assert settings_of(RL, model, place) == expected
    assert settings_of(START, model, place) == PretrainConfig()


def test_typos_and_bounds_are_refused() -> None:
    model, place = place_of(START, RL)
    with pytest.raises(ValueError, match=r"unknown setting of rl 'iteration'\. Did you mean 'iterations'"):
        settings_of(replace(RL, settings={"iteration": 1}), model, place)
    with pytest.raises(SettingError, match="iterations must be >= 0"):
        settings_of(replace(RL, settings={"iterations": -1}), model, place)
    with pytest.raises(ValueError, match="Did you mean 'reinforce'"):
        settings_of(replace(RL, algorithm="reinforc"), model, place)
    with pytest.raises(ValueError, match="Did you mean 'score'"):
        settings_of(replace(RL, preset="scor"), model, place)
    with pytest.raises(ValueError, match="Did you mean 'ppo'"):
        settings_of(replace(RL, make="sb3", algorithm="pppo", settings={}), model, place)


def test_further_training_has_the_target_that_it_is_for() -> None:
    same = Variant("same", "same", "continue", "start", target="same_information", settings={"epochs": 3})
    model, place = place_of(START, same, pretrain=PretrainConfig(users_per_batch=9))
    found = settings_of(same, model, place)
    assert found == PretrainConfig(users_per_batch=9, epochs=3, target="recent")
    ranking = settings_of(replace(same, target="ranking"), model, place)
    assert isinstance(ranking, PretrainConfig) and (ranking.objective, ranking.target) == (
        "ranking",
        "recent",
    )


def test_settings_are_shared_where_both_have_them() -> None:
    distill = Variant("distill", "distill", "finetune", "start", "distill", settings_of="rl")
    model, place = place_of(START, RL, distill, variants={"distill": {"temperature": 2.0}}, relevance_draws=5)
    rl, found = settings_of(RL, model, place), settings_of(distill, model, place)
    assert isinstance(rl, TrainerConfig) and isinstance(found, TrainerConfig)
    both = {f.name for f in fields(rl)} & {f.name for f in fields(found)}
    assert {"iterations", "learning_rate", "relevance_draws"} <= both
    assert all(getattr(rl, name) == getattr(found, name) for name in both)
    assert vars(found)["temperature"] == 2.0


def test_a_variant_changes_what_the_environment_is_made_with() -> None:
    model = Model("diffrec", env={"reward": "ease", "relevance": "recent", "reward_kwargs": {"l2": 1.0}})
    paper = replace(RL, env={"reward": "racs", "reward_kwargs": {}})
    assert env_of(paper, model) == {"reward": "racs", "relevance": "recent"}
    assert env_of(RL, model) == dict(model.env)


def test_every_algorithm_but_the_distillation_is_compared() -> None:
    study = read_study(study_path("algorithms"))
    usual = {v.algorithm for v in study.variants if v.make == "finetune" and v.usual}
    assert set(ALGORITHMS) - usual == {"distill"}  # it needs no environment step


def test_the_two_studies_of_ml_1m_train_the_same_start(tiny: Study) -> None:
    """What has one name in two studies is trained with the same settings, but for the budget."""
    places = [read_study(study_path(name)).place("ReFiT-ML1M-v0") for name in ("algorithms", "fine-tuning")]
    first, second = (settings_of(p.variant("pretrained"), p.models["diffrec"], p) for p in places)
    assert first == second


def test_changes_of_other_fields_are_refused() -> None:
    assert changed(PretrainConfig(), {}, "x") == PretrainConfig()
