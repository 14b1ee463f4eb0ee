"""The wrappers of single environments: what they do, keep, refuse, and that checkers are content."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from refit_env.envs.wrappers import FactorObservation, LowRankAction, ResidualAction, TopKObservation
from refit_env.item_factors import item_factors
from refit_env.policy import DiffusionPolicy

ALLOWED_WARNINGS = (
    "we recommend using a symmetric and normalized space",
    "We recommend you to use a symmetric and normalized Box action space",
    "is different from the unwrapped version",  # that is the point of a wrapper
)


def play(env: Any, actions: Any) -> list[Any]:
    """What the steps return."""
    return [env.step(action) for action in actions]


def same(one: Any, other: Any) -> bool:
    """Equal, all the way down."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(np.array_equal(one, other))


# ---------------------------------------------------------------------- what they do


def test_the_zero_action_is_the_pretrained_chain_bit_for_bit(make: Any, policy: DiffusionPolicy) -> None:
    env = ResidualAction(make(), policy)
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        start = torch.from_numpy(observation["u"])[None]
        for _ in range(3):
            observation = env.step(np.zeros(60, np.float32))[0]
        assert torch.equal(torch.from_numpy(observation["u"])[None], policy.denoise(start))


def test_residuals_keep_to_the_environments_box(make: Any, policy: DiffusionPolicy) -> None:
    env = ResidualAction(make(bound=1.5), policy, scale=50.0)
    env.reset(seed=0)
    for sign in (1.0, -1.0):
        u = env.step(np.full(60, 5.0 * sign))[0]["u"]
        assert np.all(u == sign * 1.5)


def test_the_policy_is_a_frozen_copy(make: Any, policy: DiffusionPolicy) -> None:
    own = copy.deepcopy(policy).train().requires_grad_(True)
    env = ResidualAction(make(), own)
    env.reset(seed=0)
    expected = env.step(np.zeros(60))[0]["u"]
    with torch.no_grad():
        for weight in own.parameters():
            weight.add_(1.0)
    env.reset(seed=0)
    assert np.array_equal(env.step(np.zeros(60))[0]["u"], expected)
    assert own.training and all(weight.requires_grad for weight in own.parameters())
    assert not any(weight.requires_grad for weight in env.action_map.policy.parameters())


def test_a_low_rank_action_is_its_residual(make: Any, policy: DiffusionPolicy) -> None:
    low, full = LowRankAction(ResidualAction(make(), policy), 4), ResidualAction(make(), policy)
    factors = item_factors(low.unwrapped.problem.dataset.train.csr, 4)
    low.reset(seed=1), full.reset(seed=1)
    z = np.array([1.0, -2.0, 0.5, 3.0], np.float32)
    for _ in range(3):
        ours, theirs = low.step(z)[0]["u"], full.step(np.sqrt(60 / 4) * factors @ z)[0]["u"]
        assert np.allclose(ours, theirs, atol=1e-5)


def test_short_observations_are_functions_of_u(make: Any) -> None:
    plain, topk, factor = make(), TopKObservation(make(), 5), FactorObservation(make(), 6)
    factors = item_factors(plain.unwrapped.problem.dataset.train.csr, 6)
    plain.action_space.seed(0)
    seen = [env.reset(seed=0)[0] for env in (plain, topk, factor)]
    for _ in range(3):
        u = seen[0]["u"]
        assert np.array_equal(seen[1]["values"], np.sort(u)[::-1][:5])
        assert np.array_equal(u[np.rint(seen[1]["ids"] * 59).astype(int)], seen[1]["values"])
        assert np.allclose(seen[2]["factors"], u @ factors, atol=1e-5)
        assert seen[0]["t"] == seen[1]["t"] == seen[2]["t"]
        action = plain.action_space.sample()
        seen = [env.step(action)[0] for env in (plain, topk, factor)]


def test_residuals_start_from_the_state_whatever_is_shown_of_it(make: Any, policy: DiffusionPolicy) -> None:
    beneath = TopKObservation(ResidualAction(make(), policy), 5)
    above = ResidualAction(TopKObservation(make(), 5), policy)
    rng = np.random.default_rng(0)
    assert same(beneath.reset(seed=0), above.reset(seed=0))
    for _ in range(3):
        action = rng.standard_normal(60)
        assert same(beneath.step(action), above.step(action))


def test_an_observation_changed_by_its_owner_changes_no_chain(make: Any, policy: DiffusionPolicy) -> None:
    env, twin = ResidualAction(make(), policy), ResidualAction(make(), policy)
    observation, _ = env.reset(seed=0)
    observation["u"] *= 0.0  # a normaliser that works in place
    twin.reset(seed=0)
    assert same(env.step(np.zeros(60)), twin.step(np.zeros(60)))


# ---------------------------------------------------------------------- checkers, pickle, spec


@pytest.mark.parametrize("check", [check_env, sb3_check_env])
@pytest.mark.filterwarnings("default")
def test_checkers_are_satisfied(
    stack: Any, check: Any, make: Any, policy: DiffusionPolicy, recwarn: pytest.WarningsRecorder
) -> None:
    check(stack.single(make(disable_env_checker=True).unwrapped, policy))
    texts = [str(warning.message) for warning in recwarn]
    assert not [text for text in texts if not any(known in text for known in ALLOWED_WARNINGS)]


def test_pickle_and_copy_keep_the_episode(stack: Any, make: Any, policy: DiffusionPolicy) -> None:
    env = stack.single(make(), policy)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(3)]
    env.reset(seed=0)
    env.step(actions[0])
    twins = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
    expected = play(env, actions[1:]), env.reset()
    for twin in twins:
        assert same((play(twin, actions[1:]), twin.reset()), expected)


def test_a_wrapped_environment_can_be_made_from_its_spec(stack: Any, synthetic_run: Path) -> None:
    env = stack.single(gym.make("ReFiT-Synthetic-v0", num_steps=3), synthetic_run)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.observation_space == env.observation_space and again.action_space == env.action_space
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(3)]
    assert same((env.reset(seed=0), play(env, actions)), (again.reset(seed=0), play(again, actions)))


# ---------------------------------------------------------------------- refusals


def test_steps_outside_an_episode_are_refused(stack: Any, make: Any, policy: DiffusionPolicy) -> None:
    env = stack.single(make().unwrapped, policy)
    action = np.zeros(env.action_space.shape)
    with pytest.raises(ResetNeeded):
        env.step(action)
    env.reset(seed=0)
    play(env, [action] * 3)
    with pytest.raises(ResetNeeded):
        env.step(action)


def test_wrong_actions_are_refused_and_leave_the_episode_as_it_was(
    make: Any, policy: DiffusionPolicy
) -> None:
    env = LowRankAction(ResidualAction(make(), policy), 4)
    env.reset(seed=0)
    wrong = np.zeros(4)
    wrong[2] = np.nan
    with pytest.raises(ValueError, match=r"action\[2\] is nan"):
        env.step(wrong)
    with pytest.raises(ValueError, match=r"action of shape \(5,\), expected \(4,\)"):
        env.step(np.zeros(5))
    with pytest.raises(ValueError, match="is not an array of shape"):
        env.step("left")
    assert len(play(env, [np.zeros(4)] * 3)) == 3 and env.step.__self__ is env


def test_other_environments_are_refused(make: Any, make_vec: Any, policy: DiffusionPolicy) -> None:
    for wrap in (lambda env: ResidualAction(env, policy), TopKObservation, FactorObservation):
        with pytest.raises(ValueError, match="wraps denoising environments"):
            wrap(gym.make("Pendulum-v1"))
        with pytest.raises(ValueError, match="wraps denoising environments"):
            wrap("ReFiT-Synthetic-v0")
        with pytest.raises(ValueError, match=r"wrap it in refit_env\.envs\.wrappers\.vector\."):
            wrap(make_vec())


def test_low_rank_actions_need_residuals(make: Any, policy: DiffusionPolicy) -> None:
    with pytest.raises(ValueError, match="actions are residuals"):
        LowRankAction(make())
    with pytest.raises(ValueError, match="actions are residuals"):
        LowRankAction(TopKObservation(make()))
    rescaled = gym.wrappers.RescaleAction(ResidualAction(make(), policy), np.float32(-1), np.float32(1))
    with pytest.raises(ValueError, match="without a wrapper between that changes actions"):
        LowRankAction(rescaled)
    low = LowRankAction(ResidualAction(make(), policy), 4)
    with pytest.raises(ValueError, match="actions are residuals"):
        LowRankAction(low)
    with pytest.raises(ValueError, match=r"rank=50 must be a whole number in 1\.\.49"):
        LowRankAction(ResidualAction(make(), policy), 50)


def test_factors_are_of_items(make: Any, policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    env = ResidualAction(make(), policy)
    monkeypatch.setattr(env.unwrapped.problem.scorer, "dim", 16)
    for wrap in (LowRankAction, FactorObservation):
        with pytest.raises(
            ValueError, match=f"{wrap.__name__} needs a vector of item scores, and the chain of 'diffrec'"
        ):
            wrap(env)


def test_what_is_not_shown_cannot_be_projected(make: Any, policy: DiffusionPolicy) -> None:
    with pytest.raises(ValueError, match="TopKObservation needs observations with t and u"):
        TopKObservation(FactorObservation(make(), 4))
    with pytest.raises(ValueError, match="ResidualAction needs observations with t and u"):
        ResidualAction(gym.wrappers.FlattenObservation(make()), policy)
    flat = gym.wrappers.FlattenObservation(ResidualAction(make(), policy))
    assert LowRankAction(flat, 4).observation_space.shape == (61,)
