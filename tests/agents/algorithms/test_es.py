"""Evolution strategies: the estimate is the smoothed fitness's gradient, it resumes, it learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.algorithms.configs import SHAPINGS, ESConfig
from agents.algorithms.es import SHAPES, EvolutionStrategy, block_means, centred_ranks
from agents.gradients.episodes import Rollout
from refit_env.data import Dataset
from refit_env.policy import DiffusionPolicy
from tests.agents.algorithms.two_items import agent_on, two_item_agent

Factory = Callable[..., DiffusionPolicy]
ResumeCheck = Callable[[Callable[[DiffusionPolicy], Any]], None]
SMALL = ESConfig(iterations=4, users_per_batch=8, samples_per_user=4, eval_every=2, rank=3)


def agent(
    policy: DiffusionPolicy, data: Dataset, config: ESConfig = SMALL, **kwargs: Any
) -> EvolutionStrategy:
    return agent_on(EvolutionStrategy, policy, data, config, **kwargs)


# ---------------------------------------------------------------------- the gradient


def smoothed(learner: EvolutionStrategy, theta: Tensor, directions: Tensor) -> float:
    """Mean reward over perturbations of theta (2,): item 0 is seen and kept out, item 1 relevant."""
    moved = theta + learner.config.sigma * directions  # (N, 2)
    policy, start = learner.policy, learner.env.problem.initial_state(torch.tensor([0]))
    with (
        torch.no_grad(),
        learner.subspace.shifted(policy.backbone.output_layer, moved[:, :1, None], moved[:, 1:]),
    ):
        x = policy.denoise(start.expand(len(moved), -1))
    return float((x[:, 1] > x[:, 2]).double().mean())


def test_estimate_matches_finite_differences_of_the_smoothed_fitness() -> None:
    # The users are alike, so the hidden units do not vary over them and M has nothing to read: m decides.
    config = ESConfig(
        users_per_batch=1, samples_per_user=4_000, rank=1, sigma=0.4, shaping="centred", learning_rate=0.0,
        basis="weights",
    )  # fmt: skip
    learner = two_item_agent(EvolutionStrategy, config, steps=2, users=9)  # three of them are rewarded
    learner.subspace.right = 3.0 * torch.randn(4, 1, generator=torch.Generator().manual_seed(0))
    learner.subspace.centre = torch.tensor([0.3])
    estimates = []
    for _ in range(12):
        scalars = learner.update(torch.tensor([0]))
        assert learner.matrix.grad is not None and learner.shift.grad is not None
        slope = torch.cat([learner.matrix.grad.flatten(), learner.shift.grad])
        estimates.append(slope * scalars["reward/within_user_std"])  # what the fitnesses were divided by
    estimate, error = torch.stack(estimates).mean(0), torch.stack(estimates).std(0) / math.sqrt(12)
    directions = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    for n in range(2):
        step = torch.zeros(2)
        step[n] = 0.05
        change = (smoothed(learner, step, directions) - smoothed(learner, -step, directions)) / 0.1
        assert abs(float(estimate[n]) - change) < 5 * float(error[n]) + 0.006
        assert abs(change) > 0.02  # so that a wrong estimate would be noticed


def test_ranks_are_shared_by_ties_and_blind_to_scale() -> None:
    fitness = torch.tensor([[1.0, 5.0, 1.0], [7.0, 0.0, 7.0]])
    ranks = centred_ranks(fitness)
    expected = torch.tensor([[1.5, 3.0, 1.5], [4.5, 0.0, 4.5]]) / 5 - 0.5
    assert torch.allclose(ranks, expected)
    assert torch.equal(centred_ranks(fitness.exp()), ranks)
    assert torch.equal(centred_ranks(torch.zeros(1, 4)), torch.zeros(1, 4))


def test_block_means() -> None:
    reward = torch.tensor([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]])
    means = block_means(reward, torch.tensor([0, 0, 1]), 2)
    assert means.tolist() == [[2.0, 3.0], [10.0, 20.0]]


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_populations_are_antithetic_and_shared_within_a_block(
    blocks: int, make_policy: Factory, small_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = agent(make_policy(), small_data, replace(SMALL, blocks=blocks))
    seen: list[Tensor] = []
    run = learner._run

    def spy(users: Tensor, directions: Tensor) -> Rollout:
        seen.append(directions)
        return run(users, directions)

    monkeypatch.setattr(learner, "_run", spy)
    learner.update(torch.arange(8))
    drawn = seen[0].view(8, 4, 3, 4)
    assert torch.equal(drawn[:, 2:], -drawn[:, :2])
    assert len(torch.unique(drawn[:, 0, 0, 0])) == (blocks or 8)


@pytest.mark.parametrize("start", ["history", "diffused"])
def test_members_are_compared_on_the_same_noise(
    start: str, make_policy: Factory, small_data: Dataset
) -> None:
    """With no perturbation all members of a user are one: also where the chain, or its start, is noisy."""
    for noisy in (False, True):
        config = replace(SMALL, noisy=noisy, exploration_std=0.3)
        learner = agent(make_policy(), small_data, config, start=start)
        rollout, again = (learner._run(torch.arange(8), torch.zeros(32, 3, 4)) for _ in range(2))
        starts, u0 = (each.view(8, 4, -1) for each in (rollout.states[0], rollout.u0))
        assert torch.equal(starts, starts[:, :1].expand_as(starts))
        assert torch.allclose(u0, u0[:, :1].expand_as(u0), atol=1e-6)
        assert len(starts[:, 0].unique(dim=0)) == 8  # users are not each other's
        assert torch.equal(rollout.states[0], again.states[0]) is (start == "history")  # drawn anew
        plain = learner.policy.denoise(learner.env.problem.initial_state(torch.arange(8)))
        assert torch.allclose(u0[:, 0], plain, atol=1e-5) is (not noisy and start == "history")


# ---------------------------------------------------------------------- training


def test_it_raises_its_reward_and_moves_the_output_layer_alone(
    make_policy: Factory, small_data: Dataset
) -> None:
    config = replace(
        SMALL,
        iterations=60,
        samples_per_user=8,
        users_per_batch=32,
        sigma=0.1,
        learning_rate=0.03,
        eval_every=60,
    )
    learner = agent(make_policy(), small_data, config)
    history = learner.learn().history
    rewards = [row["reward/mean"] for row in history if "reward/mean" in row]
    assert sum(rewards[-10:]) / 10 > sum(rewards[:10]) / 10 + 0.05
    before, after = learner.reference.state_dict(), learner.policy.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved <= {"backbone.layers.1.weight", "backbone.layers.1.bias"}
    change = learner.policy.backbone.output_layer.weight - learner.reference.backbone.output_layer.weight
    assert torch.linalg.matrix_rank(change.detach(), atol=1e-4) <= 3


@pytest.mark.parametrize("change", [{}, {"noisy": True, "blocks": 2, "shaping": "centred"}])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(
    change: dict[str, Any], check_resume: ResumeCheck, small_data: Dataset
) -> None:
    config = replace(SMALL, iterations=6, **change)
    check_resume(lambda policy: agent(policy, small_data, config))


def test_what_comes_out_is_an_ordinary_checkpoint(
    make_policy: Factory, small_data: Dataset, tmp_path: Path
) -> None:
    learner = agent(make_policy(), small_data)
    learner.learn()
    learner.policy.save(tmp_path)
    users = torch.arange(8)
    rows = learner.env.problem.initial_state(users)
    again = DiffusionPolicy.load(tmp_path).recommend_scores(users, rows)
    assert torch.equal(again, learner.policy.recommend_scores(users, rows))


@pytest.mark.slow
def test_validation_rises_from_a_pretrained_model_on_the_synthetic_set() -> None:
    from agents.training.pretrain_config import PretrainConfig
    from agents.training.pretrainer import pretrain
    from refit_env.data import load_dataset

    data = load_dataset("synthetic")
    policy = DiffusionPolicy(pretrain(data, config=PretrainConfig(epochs=40), device="cpu").backbone, 4)
    config = ESConfig(iterations=29, sigma=0.1, learning_rate=0.01)
    learner = EvolutionStrategy(
        policy, "ReFiT-Synthetic-v0", config, env_kwargs={"reward": "ndcg"}, device="cpu"
    )
    result = learner.learn()
    assert result.best_value > result.history[0]["valid/ndcg@20"] + 0.005


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shaping": "rank"}, "Did you mean 'ranks'"),
        ({"basis": "weight"}, "Did you mean 'weights'"),
        ({"samples_per_user": 3}, "must be even, found 3"),
        ({"blocks": 9}, "blocks must be <= 8, users_per_batch, found 9"),
        ({"sigma": 0.0}, r"sigma must be > 0, found 0\.0"),
        ({"rank": 99}, r"rank=99 must lie in 1\.\.16"),
    ],
)
def test_wrong_settings_are_refused_before_training(
    change: dict[str, Any], message: str, make_policy: Factory, small_data: Dataset
) -> None:
    with pytest.raises(ValueError, match=message):
        agent(make_policy(), small_data, replace(SMALL, **change))


def test_every_shaping_has_a_function() -> None:
    assert tuple(SHAPES) == SHAPINGS
