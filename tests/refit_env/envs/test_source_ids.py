"""The source's own ids in infos, options, pictures and errors of environments."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import refit_env
from agents.sb3.reward_check import check_reward
from refit_env.data import save_dataset, synthesize

KINDS = {
    "text": (lambda n: f"user-{n:03d}", lambda n: f"{n:010d}"),
    "numbers": (lambda n: 1000 - n, lambda n: 10 * n + 1),
}


@pytest.fixture(params=KINDS)
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """A data set with ids of the source, and functions number -> id of users and items."""
    from dataclasses import replace

    user, item = KINDS[request.param]
    data = synthesize(seed=1, num_users=40, num_items=60)
    dtype = object if request.param == "text" else np.int64
    ids = (np.array([f(n) for n in range(size)], dtype=dtype) for f, size in ((user, 40), (item, 60)))
    save_dataset(replace(data, user_ids=next(ids), item_ids=next(ids)), tmp_path / "shop")
    return {"data": str(tmp_path / "shop"), "user": user, "item": item}


def finish(env: gym.Env[Any, Any], observation: Any) -> dict[str, Any]:
    for _ in range(4):
        observation, _, _, _, info = env.step(observation["u"])
    return dict(info)


def test_infos_hold_the_sources_ids_beside_the_numbers(shop: dict[str, Any]) -> None:
    assert refit_env.__name__
    env = gym.make("ReFiT-Custom-v0", data=shop["data"], source_ids=True)
    assert env.spec is not None and json.loads(env.spec.to_json())["kwargs"]["source_ids"] is True
    observation, info = env.reset(seed=0, options={"user": 3})
    assert info == {"user": 3, "user_id": shop["user"](3)}
    info = finish(env, observation)
    assert info["user_id"] == shop["user"](3)
    assert info["top_k_ids"].tolist() == [shop["item"](n) for n in info["top_k"].tolist()]


def test_infos_hold_only_numbers_by_default(shop: dict[str, Any]) -> None:
    env = gym.make("ReFiT-Custom-v0", data=shop["data"])
    observation, info = env.reset(seed=0)
    assert set(info) == {"user"} and "top_k_ids" not in finish(env, observation)


def test_a_user_is_chosen_by_the_sources_id(shop: dict[str, Any]) -> None:
    env = gym.make("ReFiT-Custom-v0", data=shop["data"])
    assert env.reset(options={"user_id": shop["user"](5)})[1] == {"user": 5}
    with pytest.raises(ValueError, match=r"unknown user 'user-1000'|unknown user '-7'"):
        env.reset(options={"user_id": "user-1000" if isinstance(shop["user"](0), str) else -7})
    with pytest.raises(ValueError, match="name the user twice, by 'user' and by 'user_id'"):
        env.reset(options={"user_id": shop["user"](5), "user": 5})
    envs = gym.make_vec("ReFiT-Custom-v0", num_envs=3, data=shop["data"])
    wanted = [shop["user"](n) for n in (7, 5, 6)]
    assert envs.reset(options={"user_id": wanted})[1]["user"].tolist() == [7, 5, 6]
    assert envs.reset(options={"user_id": np.array(wanted)})[1]["user"].tolist() == [7, 5, 6]
    assert envs.reset(options={"user_id": wanted[0]})[1]["user"].tolist() == [7, 7, 7]
    with pytest.raises(ValueError, match=r"options\['user_id'\] must be one id or 3 of them, got 2"):
        envs.reset(options={"user_id": wanted[:2]})
    with pytest.raises(ValueError, match="name the user twice"):
        envs.reset(options={"user_id": wanted, "user": 5})


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return set(one) == set(other) and all(same(value, other[name]) for name, value in one.items())
    if one.dtype == object and one.size and isinstance(one.flat[0], dict):
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one.dtype == other.dtype and np.array_equal(one, other))


def test_the_vector_environment_has_the_ids_of_sync_vector_env(shop: dict[str, Any]) -> None:
    made = [lambda: gym.make("ReFiT-Custom-v0", data=shop["data"], source_ids=True)] * 3
    single = SyncVectorEnv(made, autoreset_mode=AutoresetMode.SAME_STEP)
    batch = gym.make_vec("ReFiT-Custom-v0", num_envs=3, data=shop["data"], source_ids=True)
    (observation, one), (_, other) = single.reset(seed=4), batch.reset(seed=4)
    assert same(one, other)
    for _ in range(5):
        (observation, *_, one), (*_, other) = (env.step(observation["u"]) for env in (single, batch))
        assert same(one, other)


def test_ids_of_chains_that_go_on_stay_empty(shop: dict[str, Any]) -> None:
    for backend in ("numpy", "torch"):
        env = gym.make_vec(
            "ReFiT-Custom-v0",
            num_envs=2,
            data=shop["data"],
            source_ids=True,
            backend=backend,
            autoreset_mode="Disabled",
        )
        observation, _ = env.reset(seed=0)
        for _ in range(4):
            observation, *_, info = env.step(observation["u"])
        lists = np.asarray(info["top_k"])
        assert info["top_k_ids"].tolist() == [[shop["item"](n) for n in row] for row in lists.tolist()]
        _, info = env.reset(options={"reset_mask": np.array([False, True]), "user": 9})
        assert np.asarray(info["_user_id"]).tolist() == [False, True]
        nothing = None if isinstance(shop["user"](9), str) else 0  # as SyncVectorEnv has it
        assert info["user_id"].tolist() == [nothing, shop["user"](9)]


def test_pictures_and_texts_show_the_sources_ids(shop: dict[str, Any]) -> None:
    env = gym.make("ReFiT-Custom-v0", data=shop["data"], render_mode="ansi")
    env.reset(options={"user": 3})
    text = str(env.render())
    assert text.startswith(f"user {shop['user'](3)}, T = 4")
    known = {str(shop["item"](n)) for n in range(60)}
    assert all(word.rstrip("*") in known for word in re.split(r" hits? ", text.splitlines()[1])[1].split())


def test_errors_name_the_sources_id(shop: dict[str, Any]) -> None:
    def reward(scores: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
        return torch.where(users == 3, torch.nan, 0.0)

    env = gym.make("ReFiT-Custom-v0", data=shop["data"], reward=reward)
    observation, _ = env.reset(options={"user": 3})
    message = rf"user '?{shop['user'](3)}'? \(number 3\)"
    with pytest.raises(ValueError, match=message):
        finish(env, observation)
    with pytest.raises(ValueError, match=message):
        check_reward(gym.make_vec("ReFiT-Custom-v0", num_envs=1, data=shop["data"], reward=reward))
    with pytest.raises(ValueError, match="the option 'user_id' accepts the source's id"):
        env.reset(options={"user": "user-003"})
