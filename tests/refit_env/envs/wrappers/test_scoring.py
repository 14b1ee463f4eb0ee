"""Scores of an agent in its environment: the policy's own where the agent does what the policy does."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import vector as gym_vector

from refit_env.data import Dataset, synthesize
from refit_env.envs import wrappers
from refit_env.envs.wrappers import chain_scorer
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy

USERS = torch.tensor([3, 0, 41, 7, 7])


@torch.no_grad()
def step_by_step(policy: DiffusionPolicy, data: Dataset, users: torch.Tensor) -> torch.Tensor:
    """The policy's scores by the steps that an environment makes; its ``scorer`` has them up to rounding."""
    u = policy.backbone.shown(data, "cpu")(users)
    for t in range(policy.num_steps):
        u = policy.mean(u, t)
    assert torch.allclose(u, policy.scorer(data)(users), atol=1e-6)
    return u


def zeros(env: Any) -> Any:
    """An agent that leaves the pretrained chain as it is."""
    space = env.single_action_space if hasattr(env, "num_envs") else env.action_space

    def act(observations: Any) -> np.ndarray:
        first = next(iter(observations.values())) if isinstance(observations, dict) else observations
        return np.zeros((len(first), *space.shape), np.float32)

    return act


def linear(env: Any, seed: int = 0) -> Any:
    """An agent whose actions depend on all observations, row by row."""
    space = env.single_action_space if hasattr(env, "num_envs") else env.action_space

    def act(observations: Any) -> Any:
        parts = observations.values() if isinstance(observations, dict) else [observations]
        seen = np.concatenate([np.asarray(part, np.float64) for part in parts], 1)
        weight = np.random.default_rng(seed).standard_normal((seen.shape[1], space.shape[0]))
        return np.tanh(seen @ weight).astype(np.float32)

    return act


# ---------------------------------------------------------------------- equal to the policy


@pytest.mark.parametrize("relevance", ["train", "holdout"])
def test_doing_nothing_to_residuals_scores_as_the_policy_bit_for_bit(
    residual_stack: Any, relevance: str, make: Any, make_vec: Any, policy: DiffusionPolicy, data: Dataset
) -> None:
    expected = step_by_step(policy, data, USERS)
    for env in (
        residual_stack.single(make(relevance=relevance), policy),
        residual_stack.vector(make_vec(2, relevance=relevance), policy),
        residual_stack.vector(make_vec(2, relevance=relevance, backend="torch"), policy),
    ):
        scores = chain_scorer(env, zeros(env))(USERS)
        assert torch.equal(scores, expected) and scores.dtype == torch.float32


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_acting_with_the_mean_scores_as_the_policy_bit_for_bit(
    backend: str, make_vec: Any, policy: DiffusionPolicy, data: Dataset
) -> None:
    kinds: set[type] = set()

    def act(observations: Any) -> Any:
        kinds.update(type(value) for value in observations.values())
        u, t = torch.as_tensor(observations["u"]), int(observations["t"][0, 0])
        mean = policy.mean(u, t)
        return mean if backend == "torch" else mean.numpy()

    score = chain_scorer(make_vec(backend=backend), act)
    assert torch.equal(score(USERS), step_by_step(policy, data, USERS))
    assert kinds == {torch.Tensor if backend == "torch" else np.ndarray}
    for split in ("valid", "test"):
        ours = evaluate(score, data, split, ks=(5,))
        theirs = evaluate(lambda users: step_by_step(policy, data, users), data, split, ks=(5,))
        assert ours.means() == theirs.means()


# ---------------------------------------------------------------------- equal to the environment


def test_scores_are_what_the_environment_ends_in(
    stack: Any, make: Any, make_vec: Any, policy: DiffusionPolicy
) -> None:
    env = stack.single(make(relevance="train"), policy)  # under "train" chains start in the train rows
    scores = chain_scorer(env, linear(env))(USERS)
    for user, row in zip(USERS.tolist(), scores, strict=True):
        observation, _ = env.reset(options={"user": user})
        for _ in range(3):
            action = linear(env)({name: value[None] for name, value in observation.items()})[0]
            observation, reward, _, _, info = env.step(action)
        paid, _, lists = env.unwrapped.problem.score(row[None], torch.tensor([user]))
        assert reward == pytest.approx(float(paid[0])) and np.array_equal(info["top_k"], lists[0])
    vector = stack.vector(make_vec(2), policy)
    assert torch.allclose(chain_scorer(vector, linear(vector))(USERS), scores, atol=1e-4)


def test_the_environments_episodes_are_left_alone(make: Any, policy: DiffusionPolicy) -> None:
    env, twin = (wrappers.ResidualAction(make(), policy) for _ in range(2))
    for each in (env, twin):
        each.reset(seed=0)
        each.step(np.ones(60))
    chain_scorer(env, linear(env))(USERS)
    assert np.array_equal(env.step(np.ones(60))[0]["u"], twin.step(np.ones(60))[0]["u"])
    assert env.reset()[1] == twin.reset()[1]


def test_an_agent_that_changes_its_observations_changes_no_chain(
    make_vec: Any, policy: DiffusionPolicy, data: Dataset
) -> None:
    for backend in ("numpy", "torch"):
        env = wrappers.vector.ResidualAction(make_vec(backend=backend), policy)

        def act(observations: Any) -> Any:
            observations["u"] *= 0.0  # a normaliser that works in place
            return np.zeros((len(observations["u"]), 60))

        assert torch.equal(chain_scorer(env, act)(USERS), step_by_step(policy, data, USERS))


def test_another_data_set_of_the_same_catalogue_is_accepted(make: Any, policy: DiffusionPolicy) -> None:
    other = synthesize(seed=9, num_users=30, num_items=60, num_clusters=4)
    env = wrappers.ResidualAction(make(), policy)
    score = chain_scorer(env, zeros(env), other)
    users = torch.arange(30)
    assert torch.equal(score(users), step_by_step(policy, other, users))
    with pytest.raises(ValueError, match=r"ranks 60 items, data set 'synthetic' has 24"):
        chain_scorer(env, zeros(env), synthesize(num_users=20, num_items=24, num_clusters=4))


# ---------------------------------------------------------------------- Gymnasium's own wrappers


def test_gymnasiums_transforms_are_understood(make: Any, make_vec: Any, policy: DiffusionPolicy) -> None:
    env = wrappers.LowRankAction(wrappers.FactorObservation(wrappers.ResidualAction(make(), policy), 6), 4)
    scaled = gym.wrappers.RescaleAction(gym.wrappers.FlattenObservation(env), np.float32(-1), np.float32(1))
    counted = gym.wrappers.RecordEpisodeStatistics(scaled)
    act = linear(counted)
    ours = chain_scorer(counted, act)(USERS)

    def by_hand(observations: Any) -> Any:
        order = env.observation_space.spaces
        return 3.0 * act(np.concatenate([observations[name] for name in order], 1))

    assert torch.allclose(ours, chain_scorer(env, by_hand)(USERS), atol=1e-5)
    base = wrappers.vector.ResidualAction(make_vec(2, autoreset_mode="Disabled"), policy)
    low = wrappers.vector.LowRankAction(wrappers.vector.FactorObservation(base, 6), 4)
    flat = gym_vector.RescaleAction(gym_vector.FlattenObservation(low), np.float32(-1), np.float32(1))
    assert torch.allclose(chain_scorer(flat, act)(USERS), ours, atol=1e-5)


def test_dictionaries_that_are_transformed_stay_dictionaries(make: Any, policy: DiffusionPolicy) -> None:
    env = wrappers.FactorObservation(wrappers.ResidualAction(make(), policy), 6)
    filtered = gym.wrappers.FilterObservation(env, ["factors"])
    seen: list[Any] = []

    def act(observations: Any) -> Any:
        seen.append(observations)
        return np.zeros((5, 60), np.float32)

    chain_scorer(filtered, act)(USERS)
    assert all(list(one) == ["factors"] and one["factors"].shape == (5, 6) for one in seen)


# ---------------------------------------------------------------------- refusals


def test_wrappers_that_are_not_understood_are_refused(make: Any, policy: DiffusionPolicy) -> None:
    env = wrappers.TopKObservation(wrappers.ResidualAction(make(), policy), 5)
    flat = gym.wrappers.FlattenObservation(env)

    class Noisy(gym.ObservationWrapper[Any, Any, Any]):
        """Changes values, but not the space."""

    for unknown in (
        gym.wrappers.NormalizeObservation(flat),
        gym.wrappers.FrameStackObservation(flat, 2),
        Noisy(flat),
    ):
        with pytest.raises(ValueError, match=f"does not support {type(unknown).__name__}"):
            chain_scorer(unknown, zeros(unknown))


def test_wrong_agents_are_refused(make: Any, policy: DiffusionPolicy) -> None:
    env = wrappers.ResidualAction(make(), policy)
    with pytest.raises(ValueError, match=r"action of shape \(60,\), expected \(5, 60\)"):
        chain_scorer(env, lambda observations: np.zeros(60))(USERS)
    with pytest.raises(ValueError, match=r"action\[0, 0\] is nan"):
        chain_scorer(env, lambda observations: np.full((5, 60), np.nan))(USERS)


def test_other_environments_are_refused(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for env in (gym.make("Pendulum-v1"), None):
        with pytest.raises(ValueError, match="needs a denoising environment"):
            chain_scorer(env, zeros)  # type: ignore[arg-type]
    env = make()
    monkeypatch.setattr(env.unwrapped.problem.scorer, "dim", 16)
    with pytest.raises(ValueError, match=r"the chain's 16 numbers are not scores of 60 items"):
        chain_scorer(env, zeros(env))
