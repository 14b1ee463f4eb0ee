"""The rows of the comparison and their settings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.algorithms.registry import ALGORITHMS, algorithm, presets, settings_class
from agents.experiments.rows import ROWS, Row, choose_rows, row_config
from agents.hyperparams.algorithms import DEFAULT, SETTINGS, EnvSettings, settings_of
from agents.hyperparams.sb3 import SB3Settings
from agents.training.config import TrainerConfig
from refit_env import env_ids

KIND = {"none": type(None), "elbo": type(None), "native": TrainerConfig, "sb3": SB3Settings}


def test_rows_bring_what_they_need_in_the_table_s_order() -> None:
    assert [row.key for row in choose_rows("elbo")] == ["none", "reinforce", "elbo"]
    assert [row.key for row in choose_rows("ppo, none")] == ["none", "ppo"]
    usual = [row.key for row in choose_rows("")]
    assert usual[0] == "none" and "ppo-ddpo" not in usual
    assert set(ALGORITHMS) - set(usual) == {"distill"}  # it takes no step in an environment
    with pytest.raises(ValueError, match="Did you mean 'reinforce'"):
        choose_rows("none,reinforc")


@pytest.mark.parametrize("row", ROWS.values(), ids=str)
def test_every_row_has_settings_and_what_it_needs_stands_before_it(row: Row) -> None:
    assert isinstance(row_config(row, DEFAULT), KIND[row.kind])
    order = list(ROWS)
    assert all(order.index(need) < order.index(row.key) for need in row.needs)


@pytest.mark.parametrize("env_id", SETTINGS)
def test_what_was_tuned_are_settings_of_rows(env_id: str) -> None:
    assert env_id in env_ids()
    assert set(SETTINGS[env_id].tuned) <= set(ROWS)
    for key, changes in SETTINGS[env_id].tuned.items():
        config = row_config(ROWS[key], SETTINGS[env_id])
        assert all(getattr(config, name) == value for name, value in changes.items())


def test_tuned_settings_change_one_row_and_typos_are_refused() -> None:
    tuned = EnvSettings(tuned={"ppo": {"learning_rate": 0.5}})
    ppo, plain = row_config(ROWS["ppo"], tuned), row_config(ROWS["ppo"], DEFAULT)
    assert isinstance(ppo, TrainerConfig) and isinstance(plain, TrainerConfig)
    assert ppo == replace(plain, learning_rate=0.5) and ppo != plain
    assert row_config(ROWS["grpo"], tuned) == row_config(ROWS["grpo"], DEFAULT)
    with pytest.raises(
        ValueError, match=r"unknown setting of ppo 'lerning_rate'\. Did you mean 'learning_rate'"
    ):
        row_config(ROWS["ppo"], EnvSettings(tuned={"ppo": {"lerning_rate": 1}}))


def test_the_table_names_the_settings_of_each_algorithm() -> None:
    for name in ALGORITHMS:
        assert settings_class(name) is algorithm(name).config_class
        assert {type(preset) for preset in presets(name).values()} == {settings_class(name)}


def test_presets_of_every_algorithm_have_its_default() -> None:
    for name in ALGORITHMS:
        assert isinstance(presets(name)["default"], TrainerConfig)
    assert presets("reinforce")["paper"].learning_rate == 1e-3


def test_environments_without_settings_of_their_own_take_the_default() -> None:
    assert settings_of("ReFiT-Gowalla-v0") is DEFAULT
    assert settings_of("ReFiT-Synthetic-v0").steps == 60_000
