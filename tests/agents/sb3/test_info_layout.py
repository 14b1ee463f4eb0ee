"""Tests of the conversion of infos and options between Gymnasium and SB3."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from agents.sb3.info_layout import common_options, rows_of


class Informing(gym.Env[np.ndarray, int]):
    """An environment with infos at every third step only, nested, and of several types."""

    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, place: int) -> None:
        self.place, self.steps = place, 0

    def reset(self, *, seed=None, options=None):  # type: ignore[no-untyped-def]
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int):  # type: ignore[no-untyped-def]
        self.steps += 1
        info = {
            "n": self.place,
            "row": np.arange(3) + self.place,
            "deep": {"x": 0.5 * self.place},
            "text": "a",
        }
        return np.zeros(1, np.float32), 0.0, False, False, info if self.steps % 3 == self.place else {}


def test_each_sub_environment_gets_its_own_info() -> None:
    """Splitting the batched info of SyncVectorEnv returns the infos of the single environments."""
    envs = SyncVectorEnv([lambda n=n: Informing(n) for n in range(3)], autoreset_mode=AutoresetMode.SAME_STEP)
    singles = [Informing(n) for n in range(3)]
    envs.reset()
    for _ in range(6):
        info = envs.step(np.zeros(3, np.int64))[-1]
        own = [env.step(0)[-1] for env in singles]
        for row, wanted in zip(rows_of(info, np.arange(3)), own, strict=True):
            assert row.keys() == wanted.keys()
            for name, value in wanted.items():
                np.testing.assert_equal(row[name], value)
        assert rows_of(info, np.array([2]))[0].keys() == own[2].keys()


def test_tensors_become_numbers_and_values_without_mask_are_for_all() -> None:
    info = {"user": torch.tensor([4, 5]), "_user": torch.tensor([False, True]), "all": 3, "name": "x"}
    assert rows_of(info, np.array([0, 1])) == [
        {"all": 3, "name": "x"},
        {"user": 5, "all": 3, "name": "x"},
    ]
    assert type(rows_of(info, np.array([1]))[0]["user"]) is int


def test_options() -> None:
    assert common_options([{}, {}]) is None
    assert common_options([{"user": 4}, {"user": 4}]) == {"user": 4}
    assert common_options([{"user": 4, "b": 1}, {"user": 5, "b": 1}]) == {"user": [4, 5], "b": 1}
    with pytest.raises(ValueError, match="option 'b' is missing for sub-environment 0"):
        common_options([{"user": 4}, {"user": 5, "b": 1}])
