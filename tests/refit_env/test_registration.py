"""The table of ids, and their registration with Gymnasium."""

from __future__ import annotations

import importlib
import warnings

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec

import refit_env
from refit_env.registration import TABLE, entry, env_ids, register_envs


def test_every_id_of_the_table_is_registered_with_both_entry_points() -> None:
    for row in TABLE:
        spec = gym.spec(row.env_id)
        for point in (spec.entry_point, spec.vector_entry_point):
            assert isinstance(point, str)
            module, _, name = point.partition(":")
            assert hasattr(importlib.import_module(module), name)


def test_ids_are_unique_and_have_a_version() -> None:
    assert len(set(env_ids())) == len(env_ids())
    assert all(env_id.startswith("ReFiT-") and env_id.endswith("-v0") for env_id in env_ids())


@pytest.mark.parametrize("env_id", env_ids())
def test_spec_survives_json(env_id: str) -> None:
    spec = gym.spec(env_id)
    assert EnvSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("env_id", env_ids())
def test_no_time_limit_is_in_the_spec(env_id: str) -> None:
    """T is a real end: a limit equal to it would mark the last step as truncated, too."""
    assert gym.spec(env_id).max_episode_steps is None


def test_registering_twice_changes_and_warns_of_nothing() -> None:
    before = {env_id: gym.spec(env_id) for env_id in env_ids()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_envs()
        importlib.reload(refit_env)
    assert {env_id: gym.spec(env_id) for env_id in env_ids()} == before


def test_a_registration_by_the_user_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = EnvSpec("ReFiT-Synthetic-v0", entry_point="somebody.else:Env")
    monkeypatch.setitem(gym.registry, mine.id, mine)
    register_envs()
    assert gym.spec(mine.id) is mine


def test_entry_finds_an_id_with_and_without_the_module() -> None:
    assert entry("ReFiT-ML1M-v0") is entry("refit_env:ReFiT-ML1M-v0")
    assert entry("ReFiT-ML1M-v0").dataset == "ml-1m"
    assert entry("ReFiT-Custom-v0").dataset is None


def test_the_error_for_an_unknown_id_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'ReFiT-Gowalla-v0'"):
        entry("ReFiT-Gowala-v0")


def test_defaults_follow_how_the_sets_were_split() -> None:
    recent = {row.env_id for row in TABLE if row.relevance == "recent"}
    assert recent == {"ReFiT-Synthetic-v0", "ReFiT-ML1M-v0", "ReFiT-Gowalla-v0"}
    assert entry("ReFiT-Custom-v0").relevance is None
