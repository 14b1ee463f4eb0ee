"""The divergence from the pretrained policy: its gradient, where it is measured, and when it ends passes.

Letters: B users in the batch, G episodes of each, N = B * G, D size of the diffused vector.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agents.algorithms.configs import GRPOConfig, PPOConfig, ReinforceConfig
from agents.algorithms.grpo import GRPO
from agents.algorithms.ppo import PPO
from agents.algorithms.reinforce import Reinforce
from agents.gradients.episodes import Rollout
from agents.rollouts.rollout import roll_out
from agents.training.fine_tuner import FineTuner
from agents.training.kl import divergence
from refit_env.data import Dataset
from refit_env.policy import DiffusionPolicy

Factory = Callable[..., DiffusionPolicy]
SMALL: dict[str, Any] = {
    "iterations": 4, "users_per_batch": 8, "samples_per_user": 2, "eval_every": 2, "learning_rate": 1e-3,
    "exploration_std": 0.1,
}  # fmt: skip
ONCE: dict[str, Any] = {"epochs": 1, "minibatches": 1}
USERS = torch.arange(8)


def make(cls: type[FineTuner], policy: DiffusionPolicy, data: Dataset, config: Any, **goal: Any) -> FineTuner:
    goal = {"reward": "ndcg", "k": 5, "relevance": "recent", "data": data} | goal
    return cls(policy, "ReFiT-Custom-v0", config, env_kwargs=goal, seed=3, device="cpu")


def shift(policy: nn.Module, size: float, seed: int = 0) -> list[Tensor]:
    """Move all weights at random; returns what was added."""
    generator = torch.Generator().manual_seed(seed)
    added = []
    with torch.no_grad():
        for parameter in policy.parameters():
            added.append(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
            parameter.add_(added[-1], alpha=size)
    return added


def gradient(learner: FineTuner) -> list[Tensor]:
    """Of the objective that ``update`` climbs, always with the same noise."""
    learner.optimizer = torch.optim.SGD(learner.policy.parameters(), lr=0.0)
    learner.noise_generator.manual_seed(7)
    learner.update(USERS)
    sign = 1.0 if learner.maximize else -1.0
    return [sign * p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in
            learner.policy.parameters()]  # fmt: skip


def divergence_of(
    policy: DiffusionPolicy, reference: DiffusionPolicy, rollout: Rollout, *, through: bool, summed: bool
) -> float:
    """Mean over chains of sum_t KL_t, in float64, at the visited states or along the chain of the weights."""
    rows, total = rollout.reward.numel(), torch.zeros((), dtype=torch.float64)
    u = rollout.states[0].double().repeat_interleave(rows // rollout.states[0].shape[0], 0)  # (N, D)
    with torch.no_grad():
        for t in range(policy.num_steps):
            state = u if through or t == 0 else rollout.states[t].double()
            mean = policy.mean(state, t)  # (N, D)
            each = 0.5 * ((mean - reference.mean(state, t)) / policy.std[t]).square()
            total += each.sum(1).mean() if summed else each.mean()
            u = mean + policy.std[t] * rollout.noise[t].double()
    return float(total)


def slope_along(policy: DiffusionPolicy, value: Callable[[], float], seed: int) -> tuple[float, list[Tensor]]:
    """Central difference of ``value`` along a random direction of the weights, and that direction."""
    step = 1e-4
    added = shift(policy, step, seed)
    high = value()
    shift(policy, -2 * step, seed)
    low = value()
    shift(policy, step, seed)
    return (high - low) / (2 * step), added


CASES = [
    pytest.param(Reinforce, ReinforceConfig(**SMALL), True, False, id="pathwise"),
    pytest.param(Reinforce, ReinforceConfig(**SMALL, logprob_reduction="sum"), True, True, id="pathwise-sum"),
    pytest.param(Reinforce, ReinforceConfig(**SMALL, recompute=True), True, False, id="pathwise-recompute"),
    pytest.param(Reinforce, ReinforceConfig(**SMALL, estimator="score"), False, False, id="score"),
    pytest.param(
        Reinforce, ReinforceConfig(**SMALL, estimator="rao_blackwell"), False, False, id="rao-blackwell"
    ),
    pytest.param(PPO, PPOConfig(**SMALL, **ONCE, train_steps="all"), True, False, id="ppo-coordinate"),
    pytest.param(
        PPO, PPOConfig(**SMALL, **ONCE, credit="episode", train_steps="all"), False, False, id="ppo-episode"
    ),
    pytest.param(
        PPO,
        PPOConfig(**SMALL, **ONCE, credit="episode", train_steps="all", logprob_reduction="sum"),
        False,
        True,
        id="ppo-sum",
    ),
    pytest.param(GRPO, GRPOConfig(**SMALL, **ONCE), False, False, id="grpo"),
]


@pytest.mark.parametrize(("cls", "config", "through", "summed"), CASES)
@pytest.mark.parametrize("start", ["history", "diffused"])
def test_its_gradient_matches_finite_differences(
    cls: type[FineTuner],
    config: Any,
    through: bool,
    summed: bool,
    start: str,
    make_policy: Factory,
    small_data: Dataset,
) -> None:
    """T = 3. Along the chain of the weights, or at visited states: each algorithm's own, not the other."""
    found = []
    for weight in (0.0, 1.0):
        learner = make(cls, make_policy(), small_data, replace(config, kl_weight=weight), start=start)
        shift(learner.policy, 0.3, seed=5)  # at the pretrained weights the gradient is zero
        found.append(gradient(learner))
    pull = [without - given for without, given in zip(*found, strict=True)]  # of the divergence

    learner.noise_generator.manual_seed(7)
    with torch.no_grad():
        rollout = roll_out(learner.policy, learner.env, USERS, generator=learner.noise_generator)
    policy, reference = copy.deepcopy(learner.policy).double(), copy.deepcopy(learner.reference).double()
    apart = 0.0
    for seed in range(4):
        both = []
        for way in (through, not through):
            slope, along = slope_along(
                policy,
                lambda way=way: divergence_of(policy, reference, rollout, through=way, summed=summed),  # type: ignore[misc]
                seed,
            )
            both.append(slope)
        own = sum(float((a.double() * b).sum()) for a, b in zip(pull, along, strict=True))
        size = abs(both[0]) + abs(both[1])
        assert own == pytest.approx(both[0], abs=2e-3 * size)
        apart = max(apart, abs(both[0] - both[1]) / size)
    assert apart > 0.02  # the two gradients are not one, so that the wrong one would be noticed


def test_it_is_measured_on_the_first_hold_out(make_policy: Factory, small_data: Dataset) -> None:
    """Not on the one that iterations came to last: the curve is of one quantity, whatever they draw."""
    config = ReinforceConfig(**SMALL | {"iterations": 5, "eval_every": 1}, relevance_draws=3)
    learner = make(Reinforce, make_policy(), small_data, config, relevance="holdout")
    measured: list[float] = []

    def measure(agent: FineTuner, scalars: dict[str, float]) -> None:
        first = agent.envs[0].problem
        measured.append(divergence(agent.policy, agent.reference, first, agent._train_users))

    history = learner.learn(callback=measure).history
    assert [row["policy/kl_to_pretrained"] for row in history[1:]] == measured
    others = {divergence(learner.policy, learner.reference, env.problem) for env in learner.envs}
    assert len(others) == 3  # it does depend on the hold-out


def test_passes_end_when_the_whole_batch_has_moved(make_policy: Factory, small_data: Dataset) -> None:
    """The limit is on the batch's divergence after a pass, not on its last minibatch's before its update."""
    config = PPOConfig(**SMALL | {"learning_rate": 1e-2}, epochs=4, minibatches=4, train_steps="all")
    moved: list[float] = []

    def run(target: float) -> float:
        learner = make(PPO, make_policy(), small_data, replace(config, target_kl=target))
        measure = learner._moved  # type: ignore[attr-defined]

        def spy(batch: Any) -> float:
            moved.append(measure(batch))
            rows, old = batch.rollout.users, batch.old
            each = [
                0.5 * ((old[t] - learner._mean(batch.states[t], t, rows)) / learner.policy.std[t]).square()  # type: ignore[attr-defined]
                for t in old
            ]
            whole = float(torch.stack([part.detach().mean() for part in each]).mean())
            assert moved[-1] == pytest.approx(whole, rel=1e-4)
            return moved[-1]

        learner._moved = spy  # type: ignore[attr-defined]
        return learner.update(USERS)["train/updates"]

    assert run(0.0) == 16 and not moved
    assert run(1e9) == 16 and len(moved) == 3  # nothing is left to end after the last pass
    first, second = moved[0], moved[1]
    assert first < second
    assert run(0.5 * first) == 4
    assert run(0.5 * (first + second)) == 8
