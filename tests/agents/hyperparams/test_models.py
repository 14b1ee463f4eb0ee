"""The settings files of the data sets: sound, and wrong ones named in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.hyperparams import models as module
from agents.hyperparams.models import FOLDER, Model, baseline_settings, make_model, model_of, models_of
from agents.hyperparams.sb3 import SB3Settings, sb3_settings
from agents.training.pretrain_config import PretrainConfig, published_training
from refit_env.errors import DataError
from refit_env.registration import TABLE

DATASETS = {row.dataset: row for row in TABLE if row.dataset is not None}


def test_every_file_belongs_to_a_data_set() -> None:
    assert {path.stem for path in FOLDER.glob("*.yml")} <= DATASETS.keys() | {"sb3"}


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_first_model_is_the_environment_s_backbone(dataset: str) -> None:
    row = DATASETS[dataset]
    found = models_of(row.env_id)
    assert next(iter(found.values())).backbone == row.backbone
    assert model_of(row.env_id) == next(iter(found.values()))


def test_a_model_states_what_differs_from_the_published_settings() -> None:
    found = model_of("ReFiT-YooChoose-v0", "dreamrec")
    published = published_training("dreamrec", "yoochoose")
    assert found.pretrain.patience == 4 and found.pretrain.select == published.select
    assert model_of("ReFiT-ML1M-v0", "cf-diff-published").backbone == "cf-diff"
    with pytest.raises(ValueError, match="Did you mean 't-diffrec'"):
        model_of("ReFiT-ML1M-v0", "t-difrec")
    with pytest.raises(ValueError, match="Did you mean 'ReFiT-ML1M-v0'"):
        models_of("ReFiT-ML1-v0")


def test_an_environment_without_a_file_has_its_backbone_s_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.hyperparams.models.FOLDER", tmp_path)
    assert models_of("ReFiT-Gowalla-v0") == {
        "diffrec": Model("diffrec", pretrain=PretrainConfig(), env={"reward": "ndcg", "relevance": "recent"})
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"bakcbone": "diffrec"}, "unknown setting 'bakcbone'. Did you mean 'backbone'"),
        ({"backbone": "difrec"}, "backbone: .* Did you mean 'diffrec'"),
        ({"pretrain": {"epoch": 3}}, "pretrain: unknown setting 'epoch'. Did you mean 'epochs'"),
        ({"pretrain": {"epochs": -1}}, "pretrain: epochs must be"),
        ({"size": "large"}, "size must be one of published, small"),
        ({"relevance_draws": 0}, "relevance_draws must be"),
        ({"num_steps": 0}, "num_steps must be"),
        ({"env": 3}, "env: must be a mapping"),
        ({"variants": {"rl": 3}}, "variants, rl: must be a mapping"),
        ({1: 2}, "names must be texts, found 1"),
        ("diffrec", "must be a mapping"),
    ],
)
def test_mistakes_are_one_line(body: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        make_model("own", body, "x.yml: own", "ml-1m", "diffrec")
    assert str(error.value).startswith("x.yml: own") and "\n" not in str(error.value)


def test_baselines_have_an_entry_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ml-1m.yml").write_text("diffrec: {}\nbaselines: {ease: {l2: 500.0}}\n")
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    assert baseline_settings("ReFiT-ML1M-v0", "ease") == {"l2": 500.0}
    assert baseline_settings("ReFiT-ML1M-v0", "slim") == {} == baseline_settings("ReFiT-Ciao-v0", "ease")
    assert list(models_of("ReFiT-ML1M-v0")) == ["diffrec"]


def test_a_file_of_baselines_alone_leaves_the_environment_its_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    without = models_of("ReFiT-Gowalla-v0")
    (tmp_path / "gowalla.yml").write_text("baselines: {ease: {l2: 9.0}}\n", encoding="utf-8")
    module._models_in.cache_clear()
    assert models_of("ReFiT-Gowalla-v0") == without and list(without) == ["diffrec"]


def test_stable_baselines3_s_settings() -> None:
    found = sb3_settings()
    assert found.keys() == {"ppo", "a2c", "trpo", "sac"}
    assert found["ppo"].group_size == 8 and found["sac"].group_size == 1
    assert found["ppo"].arguments["learning_rate"] == 5e-5 and isinstance(found["sac"], SB3Settings)
