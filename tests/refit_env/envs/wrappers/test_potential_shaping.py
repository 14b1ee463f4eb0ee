"""Shaping by a potential pays every step, and changes no comparison of policies."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import refit_env  # noqa: F401  # registers the ids
from refit_env.envs.wrappers import PotentialShaping
from refit_env.errors import SettingError


def returns(
    env: gym.Env[Any, Any], seed: int, noise: float, discount: float = 1.0
) -> tuple[float, list[float]]:
    """The discounted return and the rewards of a chain of one user with some noise."""
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=0, options={"user": 3})
    rewards = []
    for _ in range(4):
        action = observation["u"] + noise * rng.standard_normal(400).astype(np.float32)
        observation, reward, *_ = env.step(action)
        rewards.append(float(reward))
    return sum(discount**t * reward for t, reward in enumerate(rewards)), rewards


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("own", [False, True])
def test_the_optimum_stays(own: bool, discount: float) -> None:
    potential = (lambda observation, user: float(observation["u"].max()) + user) if own else None
    plain = gym.make("ReFiT-Synthetic-v0", reward="ndcg")
    shaped = PotentialShaping(gym.make("ReFiT-Synthetic-v0", reward="ndcg"), potential, 0.7, discount)
    gaps, of_plain = [], []
    for seed in range(6):
        before, _ = returns(plain, seed, 0.2 * seed, discount)
        after, rewards = returns(shaped, seed, 0.2 * seed, discount)
        gaps.append(after - before)
        of_plain.append(before)
        assert seed == 0 or any(reward != 0 for reward in rewards[:3])
    assert gaps == pytest.approx([gaps[0]] * 6, abs=1e-5)  # -potential(s_0), whatever was done
    assert len(set(of_plain)) > 2  # the policies differ


def test_the_unshaped_reward_is_in_the_info() -> None:
    shaped = PotentialShaping(gym.make("ReFiT-Synthetic-v0", reward="ndcg"))
    observation, _ = shaped.reset(seed=0, options={"user": 3})
    for _ in range(4):
        observation, reward, terminated, _, info = shaped.step(observation["u"])
    assert terminated and info["unshaped"] == pytest.approx(info["ndcg"], abs=1e-6)
    assert reward == pytest.approx(0.0, abs=1e-6)  # u did not change, so that the last step improved nothing


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("discount", 2, "discount must be >= 0 and <= 1, found 2"),
        ("discount", float("nan"), "discount must be a number >= 0 and <= 1, found nan"),
        ("scale", float("nan"), "scale must be a number, found nan"),
        ("scale", "a", "scale must be a number, found 'a'"),
        ("potential", 5, "potential must be a function of (observation, user), or None; found 5"),
    ],
)
def test_wrong_arguments_are_named(name: str, value: Any, fault: str) -> None:
    with pytest.raises(SettingError, match=re.escape(fault)):
        PotentialShaping(gym.make("ReFiT-Synthetic-v0"), **{name: value})


@pytest.mark.parametrize("value", [None, "high", float("nan"), float("inf")])
def test_a_potential_that_is_no_number_is_refused(value: Any) -> None:
    env = PotentialShaping(gym.make("ReFiT-Synthetic-v0"), potential=lambda observation, user: value)
    with pytest.raises(ValueError, match=f"the potential returned {value!r}, expected a finite number"):
        env.reset(seed=0)
