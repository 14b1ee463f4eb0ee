"""DPO: pairs are what the reward says, the gradient is what the equation says, it resumes and learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from agents.algorithms.configs import DPOConfig
from agents.algorithms.dpo import DPO, chain_pairs, mirrored_gap
from agents.gradients.episodes import Rollout
from agents.rollouts.rollout import roll_out
from refit_env.data import Dataset
from refit_env.policy import DiffusionPolicy
from tests.agents.algorithms.two_items import agent_on, check_slopes, expected, two_item_agent

Factory = Callable[..., DiffusionPolicy]
ResumeCheck = Callable[[Callable[[DiffusionPolicy], Any]], None]
SMALL = DPOConfig(iterations=4, users_per_batch=8, samples_per_user=2, eval_every=2, learning_rate=1e-3)


def agent(policy: DiffusionPolicy, data: Dataset, config: DPOConfig = SMALL, **goal: Any) -> DPO:
    return agent_on(DPO, policy, data, config, **goal)


# ---------------------------------------------------------------------- pairs


def test_pairs_of_chains_are_all_that_differ_and_none_that_tie() -> None:
    reward = torch.tensor([[0.5, 0.5, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0], [0.0, 3.0, 1.0, 3.0]])
    winner, loser, gap, ties = chain_pairs(reward, "all")
    found = set(zip(winner.tolist(), loser.tolist(), strict=True))
    flat = reward.flatten()
    assert found == {
        (a, b) for a in range(12) for b in range(12) if a // 4 == b // 4 and float(flat[a]) > float(flat[b])
    }
    assert torch.equal(gap, flat[winner] - flat[loser]) and len(found) == len(winner) == 10
    assert ties == pytest.approx(8 / 18, abs=1e-6)
    winner, loser, gap, ties = chain_pairs(reward, "best_worst")
    assert winner.tolist() == [2, 9] and loser.tolist() == [3, 8] and gap.tolist() == [1.0, 3.0]
    assert ties == pytest.approx(1 / 3, abs=1e-6)


def test_a_counterfactual_earns_what_the_environment_pays_for_it(
    make_policy: Factory, small_data: Dataset
) -> None:
    """Every number of every chain is mirrored in turn and the whole list is rewarded again."""
    learner = agent(make_policy(), small_data, replace(SMALL, exploration_std=0.3))
    users = torch.arange(8)
    with torch.no_grad():
        rollout = roll_out(learner.policy, learner.env, users, generator=learner.noise_generator)
    gap = mirrored_gap(rollout, learner.policy, learner.env.problem.reward_fn)
    mean = rollout.means[-1]
    for i in range(small_data.num_items):
        other = rollout.u0.clone()
        other[:, i] = 2 * mean[:, i] - rollout.u0[:, i]
        paid, _, _ = learner.env.problem.score(other, users.repeat_interleave(2))
        assert torch.allclose(gap[:, i], rollout.reward - paid, atol=1e-6), i
    assert float((gap != 0).float().mean()) > 0.02


def test_log_ratio_is_the_difference_of_the_log_probs(make_policy: Factory, small_data: Dataset) -> None:
    learner = agent(make_policy(), small_data)
    with torch.no_grad():
        rollout = roll_out(learner.policy, learner.env, torch.arange(8), generator=learner.noise_generator)
        for p in learner.policy.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        for t in range(3):
            states = rollout.states[t] if t else rollout.states[0].repeat_interleave(2, 0)
            behaviour = rollout.means[t] if t else rollout.means[0].repeat_interleave(2, 0)
            action = behaviour + learner.policy.std[t] * rollout.noise[t]
            new = learner.policy.log_prob(action, states, t, reduction="mean")
            old = learner.reference.log_prob(action, states, t, reduction="mean")
            found = learner._log_ratio(rollout, t)
            assert torch.allclose(found, new - old, atol=1e-5) and float(found.abs().max()) > 1e-3


# ---------------------------------------------------------------------- the gradient


@pytest.mark.parametrize(
    ("credit", "steps", "samples", "batches", "factor"),
    [("episode", 2, 200, 80, 1.0), ("coordinate", 1, 20_000, 12, 2.0)],
)
def test_at_the_reference_the_gradient_is_the_mean_rewards(
    credit: str, steps: int, samples: int, batches: int, factor: float
) -> None:
    """Times beta: 1 / D for chains, whose log-ratios are means, and 2 / D for mirrored numbers."""
    config = DPOConfig(
        credit=credit, beta=0.5, users_per_batch=1, samples_per_user=samples, exploration_std=0.4
    )
    learner = two_item_agent(DPO, config, steps)
    pairs = samples * (samples - 1) / 2 if credit == "episode" else 1
    scale = -3 / (0.5 * factor * pairs)
    check_slopes(learner, lambda noise: expected(learner, noise), batches, scale, least=0.02)


@pytest.mark.parametrize("gapped", [True, False])
def test_loss_of_a_hand_made_pair(gapped: bool, make_policy: Factory, small_data: Dataset) -> None:
    """Two chains of one user, away from the reference: -log sigmoid(beta (ratio_w - ratio_l)), all steps."""
    config = replace(SMALL, credit="episode", beta=300.0, weigh_by_gap=gapped, users_per_batch=1)
    learner = agent(make_policy(), small_data, config)
    learner.optimizer = torch.optim.SGD(learner.policy.parameters(), lr=0.0)
    with torch.no_grad():
        rollout = roll_out(learner.policy, learner.env, torch.tensor([3]), generator=learner.noise_generator)
        rollout.reward = torch.tensor([0.25, 1.0])
        for p in learner.policy.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        ratios = [learner._log_ratio(rollout, t) for t in range(3)]
    lead = [float(r[1] - r[0]) for r in ratios]
    expected = sum(math.log1p(math.exp(-300.0 * x)) for x in lead) * (0.75 if gapped else 1.0)
    found = learner._compare_chains(rollout)
    assert found["train/loss"] == pytest.approx(expected, rel=1e-4)
    assert found["train/accuracy"] == pytest.approx(sum(x > 0 for x in lead) / 3)
    assert found["train/pairs"] == 1.0 and found["train/tie_share"] == 0.0


def test_nothing_is_learnt_from_ties(make_policy: Factory, small_data: Dataset) -> None:
    policy = make_policy()
    before = [p.detach().clone() for p in policy.parameters()]
    learner = agent(policy, small_data, replace(SMALL, credit="episode"))
    rollout = Rollout(users=torch.arange(8), reward=torch.ones(16))
    found = learner._compare_chains(rollout)
    assert found["train/tie_share"] == 1.0 and found["train/pairs"] == 0.0
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_beta_holds_the_policy_near_the_pretrained_one(make_policy: Factory, small_data: Dataset) -> None:
    gaps = {}
    for beta in (0.1, 50.0):
        config = replace(
            SMALL, beta=beta, iterations=40, users_per_batch=32, learning_rate=3e-3, eval_every=40
        )
        learner = agent(make_policy(), small_data, config)
        learner.learn()
        gaps[beta] = learner.history[-1]["policy/kl_to_pretrained"]
    assert gaps[50.0] < 0.5 * gaps[0.1]


# ---------------------------------------------------------------------- training


@pytest.mark.parametrize("credit", ["coordinate", "episode"])
def test_it_raises_its_reward(credit: str, make_policy: Factory, small_data: Dataset) -> None:
    config = replace(
        SMALL, credit=credit, iterations=100, samples_per_user=8, users_per_batch=32, learning_rate=3e-3,
        eval_every=100, exploration_std=0.1,
    )  # fmt: skip
    history = agent(make_policy(), small_data, config).learn().history
    rewards = [row["reward/mean"] for row in history if "reward/mean" in row]
    assert sum(rewards[-20:]) / 20 > sum(rewards[:20]) / 20 + 0.05


@pytest.mark.parametrize(
    "change",
    [
        {"credit": "coordinate", "epochs": 2},
        {"credit": "episode", "train_steps": "random:2", "epochs": 2},
        {"credit": "episode", "pairs": "best_worst", "weigh_by_gap": False},
    ],
)
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(
    change: dict[str, Any], check_resume: ResumeCheck, small_data: Dataset
) -> None:
    config = replace(SMALL, iterations=6, **change)
    check_resume(lambda policy: agent(policy, small_data, config))


@pytest.mark.slow
def test_validation_rises_from_a_pretrained_model_on_the_synthetic_set() -> None:
    from agents.training.pretrain_config import PretrainConfig
    from agents.training.pretrainer import pretrain
    from refit_env.data import load_dataset

    data = load_dataset("synthetic")
    policy = DiffusionPolicy(pretrain(data, config=PretrainConfig(epochs=40), device="cpu").backbone, 4)
    learner = DPO(
        policy, "ReFiT-Synthetic-v0", DPOConfig(iterations=100), env_kwargs={"reward": "ndcg"}, device="cpu"
    )
    result = learner.learn()
    before = result.history[0]["valid/ndcg@20"]
    assert result.best_value > before + 0.005


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"credit": "coordinates"}, "Did you mean 'coordinate'"),
        ({"pairs": "best-worst"}, "Did you mean 'best_worst'"),
        ({"beta": 0.0}, r"beta must be > 0, found 0\.0"),
        ({"epochs": 0}, "epochs must be >= 1"),
        ({"credit": "episode", "samples_per_user": 1}, "samples_per_user must be >= 2"),
        ({"train_steps": "first:2"}, "must be 'all', 'random:n' or 'last:n'"),
    ],
)
def test_wrong_settings_are_refused_before_training(
    change: dict[str, Any], message: str, make_policy: Factory, small_data: Dataset
) -> None:
    with pytest.raises(ValueError, match=message):
        agent(make_policy(), small_data, replace(SMALL, **change))


def test_coordinate_pairs_need_a_list_reward(make_policy: Factory, small_data: Dataset) -> None:
    with pytest.raises(ValueError, match="use"):
        agent(make_policy(), small_data, reward="r_cos")
    config = replace(SMALL, credit="episode", iterations=1)
    assert agent(make_policy(), small_data, config, reward="r_cos").learn().history
