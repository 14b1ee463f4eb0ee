"""RWR: its gradient is what its equation says, it resumes bit for bit, and it learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.algorithms.configs import STATES, WEIGHTINGS, RWRConfig
from agents.algorithms.rwr import RewardWeighted, effective_share, exponential
from agents.experiments.frontier import read_front_study
from agents.experiments.resolve import settings_of
from agents.experiments.shipped import study_path
from agents.experiments.study import read_study
from agents.gradients.counterfactual_advantage import coordinate_credit
from agents.rollouts.rollout import roll_out
from refit_env.data import Dataset
from refit_env.policy import DiffusionPolicy
from tests.agents.algorithms.two_items import agent_on, check_slopes, expected, two_item_agent

Factory = Callable[..., DiffusionPolicy]
ResumeCheck = Callable[[Callable[[DiffusionPolicy], Any]], None]
SMALL = RWRConfig(iterations=4, users_per_batch=8, samples_per_user=2, eval_every=2, learning_rate=1e-3)


def agent(policy: DiffusionPolicy, data: Dataset, config: RWRConfig = SMALL, **goal: Any) -> RewardWeighted:
    return agent_on(RewardWeighted, policy, data, config, **goal)


# ---------------------------------------------------------------------- the gradient


@pytest.mark.parametrize(
    ("weighting", "credit", "baseline"),
    [
        ("advantage", "episode", "leave_one_out"),
        ("advantage", "coordinate", "batch"),
        ("exp_reward", "episode", "none"),
    ],
)
def test_gradient_of_a_one_step_chain_matches_finite_differences(
    weighting: str, credit: str, baseline: str
) -> None:
    """``advantage`` climbs the mean reward, ``exp_reward`` log E[exp(r / temperature)], both over D."""
    config = RWRConfig(
        weighting=weighting, credit=credit, baseline=baseline, states="chain", temperature=0.7,
        users_per_batch=1, samples_per_user=20_000, exploration_std=0.4,
    )  # fmt: skip
    learner = two_item_agent(RewardWeighted, config, steps=1)

    def objective(noise: list[Tensor]) -> float:
        if weighting == "exp_reward":
            return math.log(expected(learner, noise, lambda r: (r / 0.7).exp()))
        return expected(learner, noise)

    check_slopes(learner, objective, batches=12, scale=-3, least=0.02)  # an average over D = 3 is descended


def test_the_supervised_baseline_is_one_preset_in_all_studies() -> None:
    baseline = RWRConfig.preset("exponential")
    assert baseline == RWRConfig(weighting="exp_reward", credit="episode", baseline="none")
    rewards, fronts = read_study(study_path("rewards")), read_front_study(study_path("frontier"))
    place = rewards.place("ReFiT-ML1M-v0")
    settings = settings_of(place.variant("rwr-exp"), next(iter(place.models.values())), place)
    assert isinstance(settings, RWRConfig) and settings.weighting == baseline.weighting
    assert fronts.supervised["rwr-exp"].config({}) == baseline


@pytest.mark.parametrize("states", STATES)
def test_one_update_is_the_hand_written_regression(
    states: str, make_policy: Factory, small_data: Dataset
) -> None:
    """Against a chain rolled out apart with the same draws, weighted row by row."""
    learner = agent(make_policy(), small_data, replace(SMALL, states=states, exploration_std=0.1))
    learner.optimizer = torch.optim.SGD(learner.policy.parameters(), lr=0.0)
    users = torch.arange(8)
    learner.update(users)
    layer = learner.policy.backbone.layers[-1].weight  # type: ignore[union-attr,index]
    found = layer.grad.clone()

    policy, generator = learner.policy, torch.Generator().manual_seed(4)  # the agent's: its seed + 1
    with torch.no_grad():
        rollout = roll_out(policy, learner.env, users, generator=generator)
        weight = coordinate_credit(rollout, policy, learner.env.problem.reward_fn)
    k = torch.randint(3, (16,), generator=generator)
    if states == "chain":
        rows = [rollout.states[2 - int(kn)] for kn in k]
        state = torch.stack([r[n] if len(r) == 16 else r[n // 2] for n, r in enumerate(rows)])
    else:
        clean = rollout.u0
        if states == "history":
            clean = learner.env.problem.initial_state(users).repeat_interleave(2, 0)
        state = policy.diffusion.q_sample(clean, k, torch.randn(16, 40, generator=generator))
    loss = torch.zeros(())
    for n in range(16):
        step = int(policy.diffusion.timesteps[int(k[n])])
        x0 = policy.backbone.predict_x0(state[n : n + 1], step)[0]
        loss = loss + (weight[n] * (x0 - rollout.u0[n]).square()).sum() / (2 * 0.1**2)
    (expected,) = torch.autograd.grad(loss / (16 * 40), layer)
    assert float(expected.abs().max()) > 0
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-7)


def test_coordinate_weights_vary_less_than_episode_weights(make_policy: Factory, small_data: Dataset) -> None:
    spread = {}
    for credit in ("episode", "coordinate"):
        config = replace(SMALL, credit=credit, baseline="leave_one_out", samples_per_user=4)
        learner = agent(make_policy(), small_data, config)
        grads = []
        for _ in range(30):
            learner.optimizer = torch.optim.SGD(learner.policy.parameters(), lr=0.0)
            learner.update(torch.arange(8))
            grads.append(learner.policy.backbone.layers[-1].weight.grad.clone())  # type: ignore[union-attr,index]
        spread[credit] = float(torch.stack(grads).var(0).sum())
    assert spread["coordinate"] < 0.5 * spread["episode"]


def test_exponential_weights() -> None:
    weight = exponential(torch.tensor([[0.0], [0.1], [100.0]]), 0.1)
    assert weight.shape == (3, 1) and math.isclose(float(weight.mean()), 1.0, rel_tol=1e-5)
    assert torch.isfinite(weight).all() and float(weight[2]) > 2.99
    two = exponential(torch.tensor([0.0, 0.1]), 0.1)
    assert math.isclose(float(two[1] / two[0]), math.e, rel_tol=1e-5)
    assert effective_share(torch.ones(5)) == pytest.approx(1.0)
    assert effective_share(torch.tensor([0.0, 0.0, 0.0, -2.0])) == pytest.approx(0.25)


# ---------------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("weighting", "credit", "states"),
    [
        ("advantage", "coordinate", "history"),
        ("advantage", "coordinate", "chain"),
        ("advantage", "episode", "chain"),
    ],
)
def test_it_raises_its_reward(
    weighting: str, credit: str, states: str, make_policy: Factory, small_data: Dataset
) -> None:
    config = replace(
        SMALL, weighting=weighting, credit=credit, states=states, baseline="leave_one_out", iterations=150,
        samples_per_user=8, users_per_batch=32, learning_rate=3e-3, eval_every=150, exploration_std=0.1,
    )  # fmt: skip
    history = agent(make_policy(), small_data, config).learn().history
    rewards = [row["reward/mean"] for row in history if "reward/mean" in row]
    assert sum(rewards[-20:]) / 20 > sum(rewards[:20]) / 20 + 0.05


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(
    weighting: str, check_resume: ResumeCheck, small_data: Dataset
) -> None:
    credit = "episode" if weighting == "exp_reward" else "coordinate"
    config = replace(SMALL, iterations=6, weighting=weighting, credit=credit, regressions=2)
    check_resume(lambda policy: agent(policy, small_data, config))


@pytest.mark.slow
def test_validation_rises_from_a_pretrained_model_on_the_synthetic_set() -> None:
    from agents.training.pretrain_config import PretrainConfig
    from agents.training.pretrainer import pretrain
    from refit_env.data import load_dataset

    data = load_dataset("synthetic")
    policy = DiffusionPolicy(pretrain(data, config=PretrainConfig(epochs=40), device="cpu").backbone, 4)
    learner = RewardWeighted(
        policy, "ReFiT-Synthetic-v0", RWRConfig(iterations=100), env_kwargs={"reward": "ndcg"}, device="cpu"
    )
    result = learner.learn()
    before = result.history[0]["valid/ndcg@20"]
    assert result.best_value > before + 0.005


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weighting": "advantages"}, "Did you mean 'advantage'"),
        ({"credit": "coordinates"}, "Did you mean 'coordinate'"),
        ({"states": "histories"}, "Did you mean 'history'"),
        ({"baseline": "groop"}, "Did you mean 'group'"),
        ({"temperature": 0.0}, r"temperature must be > 0, found 0\.0"),
        ({"regressions": 0}, "regressions must be >= 1"),
        ({"weighting": "exp_reward"}, "use credit 'episode'"),
        ({"exploration_std": 0.0, "credit": "episode"}, "all samples equal the mean"),
    ],
)
def test_wrong_settings_are_refused_before_training(
    change: dict[str, Any], message: str, make_policy: Factory, small_data: Dataset
) -> None:
    policy = make_policy()
    if "exploration_std" in change:
        policy.diffusion.posterior_std[:] = 0.0
    with pytest.raises(ValueError, match=message):
        agent(policy, small_data, replace(SMALL, **change))


def test_coordinate_credit_needs_a_list_reward(make_policy: Factory, small_data: Dataset) -> None:
    with pytest.raises(ValueError, match="use"):
        agent(make_policy(), small_data, reward="r_cos")
    config = replace(SMALL, credit="episode", iterations=1)
    assert agent(make_policy(), small_data, config, reward="r_cos").learn().history
