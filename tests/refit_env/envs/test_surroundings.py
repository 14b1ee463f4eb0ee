"""Time limits and wrappers under which an environment could not work are refused, others are not."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers import vector as gym_vector
from gymnasium.wrappers.vector import VectorizeTransformAction, VectorizeTransformObservation

from refit_env.envs import DenoisingEnv
from refit_env.utils.callers import argument_of_caller, running_objects

ID = "ReFiT-Synthetic-v0"
REFUSED = r"max_episode_steps=3: a chain ends by itself after T=4 steps.*pass num_steps=3"


def make_sync(**kwargs: Any) -> Any:
    same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
    return gym.make_vec(ID, num_envs=2, vectorization_mode="sync", vector_kwargs=same_step, **kwargs)


# ---------------------------------------------------------------------- time limits


@pytest.mark.parametrize(
    "make", [lambda **k: gym.make(ID, **k), lambda **k: gym.make_vec(ID, num_envs=2, **k), make_sync]
)
def test_a_time_limit_below_t_is_refused_by_the_constructor(make: Any) -> None:
    for limit in (3, 0, -2):
        with pytest.raises(ValueError, match=rf"max_episode_steps={limit}: a chain ends by itself after T=4"):
            make(max_episode_steps=limit)
    with pytest.raises(ValueError, match=REFUSED):
        make(max_episode_steps=3)
    for limit in (None, -1, 4, 9):  # -1 is Gymnasium's word for none
        envs = make(max_episode_steps=limit)
        envs.reset(seed=0)
        action = np.zeros(envs.action_space.shape, np.float32)
        *_, (_, _, terminated, _, _) = [envs.step(action) for _ in range(4)]
        assert np.all(terminated)
    make(max_episode_steps=2, num_steps=2)


def test_a_time_limit_below_t_is_refused_wherever_it_comes_from() -> None:
    """At the first reset, because the constructor runs before the wrapper's."""
    with pytest.raises(ValueError, match=REFUSED):
        TimeLimit(gym.make(ID), 3).reset()
    with pytest.raises(ValueError, match=REFUSED):
        gym.wrappers.FlattenObservation(
            TimeLimit(gym.wrappers.ClipAction(DenoisingEnv("synthetic")), 3)
        ).reset()
    TimeLimit(gym.make(ID), 4).reset()


def test_a_time_limit_in_a_registration_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gym.envs.registration.EnvSpec(
        "Mine-v0",
        entry_point="refit_env.envs:DenoisingEnv",
        vector_entry_point="refit_env.envs:DenoisingVectorEnv",
        kwargs={"data": "synthetic"},
        max_episode_steps=3,
    )
    monkeypatch.setitem(gym.registry, "Mine-v0", spec)
    with pytest.raises(ValueError, match=REFUSED):
        gym.make("Mine-v0").reset()
    with pytest.raises(ValueError, match=REFUSED):
        gym.make_vec("Mine-v0", num_envs=2)
    gym.make("Mine-v0", max_episode_steps=-1).reset()


def test_a_time_limit_of_another_environment_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    class Whole(gym.Env[Any, Any]):
        """One step of it is a whole chain of ours."""

        def __init__(self) -> None:
            self.inner = DenoisingEnv("synthetic")
            self.observation_space, self.action_space = self.inner.observation_space, self.inner.action_space

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            return self.inner.reset(seed=seed, options=options)

        def step(self, action: Any) -> Any:
            return [self.inner.step(action) for _ in range(4)][-1]

    monkeypatch.setitem(
        gym.registry, "Whole-v0", gym.envs.registration.EnvSpec("Whole-v0", entry_point=Whole)
    )
    env = gym.make("Whole-v0", max_episode_steps=1)
    env.reset(seed=0)
    assert env.step(np.zeros(400, np.float32))[2:4] == (True, True)


# ---------------------------------------------------------------------- tensors


def test_wrappers_that_compute_with_arrays_are_refused_over_tensors() -> None:
    makers: list[Any] = [
        gym_vector.RecordEpisodeStatistics,
        gym_vector.NormalizeReward,
        gym_vector.DictInfoToList,
        lambda e: gym_vector.DictInfoToList(gym_vector.TransformReward(e, lambda r: r)),
        lambda e: VectorizeTransformObservation(
            e,
            gym.wrappers.TransformObservation,
            func=lambda o: o,
            observation_space=e.single_observation_space,
        ),
        lambda e: VectorizeTransformAction(
            e, gym.wrappers.TransformAction, func=lambda a: a, action_space=e.single_action_space
        ),
    ]
    for make in makers:
        tensors = make(gym.make_vec(ID, num_envs=2, backend="torch", autoreset_mode="Disabled"))
        name = type(tensors).__name__
        with pytest.raises(ValueError, match=rf"{name} needs NumPy.*backend='numpy'.*beneath {name}\. docs"):
            tensors.reset(seed=0)
        make(gym.make_vec(ID, num_envs=2, autoreset_mode="Disabled")).reset(seed=0)


def test_wrappers_above_a_conversion_get_arrays() -> None:
    pytest.importorskip("array_api_compat", reason="Gymnasium's ArrayConversion needs array-api-compat")
    tensors = gym.make_vec(ID, num_envs=2, num_steps=2, backend="torch")
    arrays = gym_vector.ArrayConversion(tensors, env_xp=torch, target_xp=np)
    counted = gym_vector.RecordEpisodeStatistics(gym_vector.NormalizeReward(arrays))
    counted.reset(seed=0)
    *_, (_, _, _, _, info) = [counted.step(np.zeros((2, 400), np.float32)) for _ in range(2)]
    assert info["episode"]["l"].tolist() == [2, 2]


# ---------------------------------------------------------------------- the stack


def test_running_objects_are_found_innermost_first() -> None:
    class Outer:
        def __init__(self, inner: Any = None) -> None:
            self.inner = inner

        def reset(self) -> list[Any]:
            return self.find() if self.inner is None else self.inner.reset()  # type: ignore[no-any-return]

        def find(self) -> list[Any]:
            return running_objects(Outer, "reset")

    inner = Outer()
    middle = Outer(inner)
    outer = Outer(middle)
    assert outer.reset() == [inner, middle, outer] and middle.reset() == [inner, middle]
    assert running_objects(Outer, "reset") == [] == running_objects(int, "reset")


def test_an_argument_is_read_from_the_frame_at_the_depth() -> None:
    def limit_of_caller(depth: int) -> Any:
        return argument_of_caller(caller, "limit", depth)

    def caller(depth: int, limit: int) -> Any:
        return limit_of_caller(depth)

    assert caller(1, limit=7) == 7
    assert caller(0, limit=7) is None and caller(2, limit=7) is None and caller(10**6, limit=7) is None
